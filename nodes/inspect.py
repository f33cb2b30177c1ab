"""LPNSRInspect: what the chain does at each step."""

from dataclasses import replace
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor
from typing_extensions import override

from ..lpnsr_impl.config import SCALE, PredictorMode
from ..lpnsr_impl.method.noise_figures import (
    ChainRecorder,
    check_matplotlib,
    draw_figure,
    noise_picture,
    render,
)
from ..lpnsr_impl.method.sampler import ALL_ON
from ..lpnsr_impl.method.schedule import Schedule
from ..lpnsr_impl.pictures.images import to_01
from ..lpnsr_impl.pictures.tiling import DEFAULT_OVERLAP
from . import host, stages, widgets
from .images import Picture
from .models import Condition, LPNSRModels, LPNSRModelsType, pack_latent, unpack_latent
from .schema import schema
from .tiles import Tiling


class LPNSRInspect(io.ComfyNode):
    """Figures 2 and 4 of the paper for one's own picture."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LPNSRInspect",
            display_name="LPNSR Inspect",
            category="LPNSR",
            description="Runs the chain as LPNSR Sample does, and shows the clean prediction and "
            "the noise of each step (Figures 2 and 4 of the paper). Without a noise predictor in "
            "models it shows ResShift's random noise; of a one-step student the noise it starts "
            "from. The plot needs matplotlib.",
            search_aliases=["noise", "predictions", "debug"],
            inputs=[
                LPNSRModelsType.Input("models", tooltip="From Load LPNSR Models."),
                io.Latent.Input("samples", tooltip="From ResShift Encode."),
                widgets.seed(),
                widgets.steps(),
                widgets.kappa(),
                widgets.predictor_mode(),
                widgets.tile_size(),
                widgets.overlap(),
            ],
            outputs=[
                io.Image.Output(
                    "maps",
                    display_name="maps",
                    tooltip="For each picture and step: the clean prediction, decoded and without "
                    "colour fix, then the noise that was added (grey is 0, black -3, white 3). The "
                    "last step adds none.",
                ),
                io.Image.Output(
                    "plot",
                    display_name="plot",
                    tooltip="For each picture: the noise of each step, and how its values are "
                    "distributed beside the normal distribution.",
                ),
            ],
        )

    @classmethod
    @override
    def validate_inputs(cls, predictor_mode: str | None) -> bool | str:
        return widgets.check_choice("predictor_mode", predictor_mode)

    @classmethod
    @override
    def execute(
        cls,
        models: LPNSRModels,
        samples: dict[str, Any],
        seed: int,
        steps: int,
        kappa: float,
        predictor_mode: PredictorMode,
        tile_size: int = 0,
        overlap: int = DEFAULT_OVERLAP,
    ) -> io.NodeOutput:
        widgets.require_choice("predictor_mode", predictor_mode)
        student = models.student
        if kappa == 0 or (steps < 2 and not student):
            raise ValueError(
                f"With {steps} steps and kappa {kappa} there is no noise between the steps to "
                "show. Set steps to 2 or more, and kappa above 0."
            )
        check_matplotlib()
        predictor_on = {} if models.noise_predictor is None else ALL_ON
        shown = 1 if student else steps
        work = stages.sample_work(models, steps, predictor_on) + shown * stages.DECODE_WORK
        progress = host.Progress(len(samples["samples"]) * work)
        tiling = Tiling(tile_size, overlap)
        recorders: list[ChainRecorder] = []

        def watch(schedule: Schedule) -> ChainRecorder:
            recorders.append(ChainRecorder(schedule))
            return recorders[-1]

        stages.sample(
            models,
            samples,
            seed=seed,
            steps=steps,
            kappa=kappa,
            predictor_on=predictor_on,
            predictor_mode=predictor_mode,
            tiling=tiling,
            progress=progress,
            watch=watch,
        )
        maps: list[Tensor] = []
        plots: list[Tensor] = []
        y0, condition = unpack_latent(samples, models)
        codes = models.denoiser.network.predicts_codes
        of_each = zip(recorders, y0.split(1), condition.lr.split(1), strict=True)
        for recorder, y0_i, lr in of_each:
            if student:
                recorder.keep_start(student, y0_i)
            one = replace(condition, lr=lr, alpha=None, codes=codes)
            h, w = lr.shape[2:]
            noise = {t: n[:, :, :h, :w] for t, n in recorder.noise.items()}
            clean = _decoded(models, recorder, one, tiling, progress)
            for t, picture in zip(recorder.x0_pred, clean.split(1), strict=True):
                maps.append(picture)
                if t in noise:
                    maps.append(_enlarged(noise_picture(noise[t])).to(picture))
            plots.append(Picture(render(draw_figure(to_01(lr), noise))).to_image())
        progress.finish()
        return io.NodeOutput(torch.cat(maps), host.as_result(torch.cat(plots)))


def _decoded(
    models: LPNSRModels,
    recorder: ChainRecorder,
    condition: Condition,
    tiling: Tiling,
    progress: host.Progress,
) -> Tensor:
    """IMAGE batch of the clean predictions, in the order of the steps."""
    x0 = torch.cat(list(recorder.x0_pred.values()))
    every = replace(condition, lr=condition.lr.expand(len(x0), -1, -1, -1))
    return stages.decode(models, pack_latent(x0, every), "none", tiling, progress)[0]


def _enlarged(x: Tensor) -> Tensor:
    """[1,3,h,w] to an IMAGE [1,4h,4w,3], each value a square."""
    return Picture(x.repeat_interleave(SCALE, 2).repeat_interleave(SCALE, 3)).to_image()
