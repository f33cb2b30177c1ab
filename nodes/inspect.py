"""LPNSRInspect: shows the clean prediction and the noise of each diffusion step."""

from dataclasses import replace
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..lpnsr_impl.config import SCALE, PredictorMode
from ..lpnsr_impl.engine.engine import DECODE_WORK
from ..lpnsr_impl.engine.finish import Finish
from ..lpnsr_impl.engine.tiled import DEFAULT_OVERLAP
from ..lpnsr_impl.method.noise_figures import (
    ChainRecorder,
    check_matplotlib,
    draw_figure,
    noise_picture,
    render,
)
from ..lpnsr_impl.method.sampler import ALL_ON, Sampling
from ..lpnsr_impl.pictures.picture import Picture
from . import host, stages, widgets
from .images import to_image
from .models import LPNSRModels, LPNSRModelsType, unpack_latent
from .schema import schema


class LPNSRInspect(io.ComfyNode):
    """Draws figures like Figures 2 and 4 of the LPNSR paper for any picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LPNSRInspect",
            display_name="LPNSR Inspect",
            description="Runs the diffusion as LPNSR Sample does, and shows the clean prediction "
            "and the noise of each step, like Figures 2 and 4 of the paper. Without a noise "
            "predictor in models, it shows ResShift's random noise. For a one-step student, it "
            "shows the initial noise. The plot needs matplotlib.",
            search_aliases=["noise", "predictions", "debug"],
            inputs=[
                LPNSRModelsType.Input("models", tooltip="From Load LPNSR Models."),
                io.Latent.Input("samples", tooltip="From ResShift Encode."),
                widgets.SEED,
                widgets.STEPS,
                widgets.KAPPA,
                widgets.PREDICTOR_MODE,
                widgets.TILE_SIZE,
                widgets.OVERLAP,
            ],
            outputs=[
                io.Image.Output(
                    "maps",
                    display_name="maps",
                    tooltip="For each picture and step: the clean prediction (decoded, without "
                    "colour fix), then the noise that was added (black is -3, grey 0, white 3). "
                    "The last step adds no noise.",
                ),
                io.Image.Output(
                    "plot",
                    display_name="plot",
                    tooltip="For each picture: the noise of each step, and a histogram of its "
                    "values, compared with the normal distribution.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, predictor_mode: str | None) -> bool | str:
        return widgets.check_choices(predictor_mode=predictor_mode)

    @classmethod
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
        widgets.require_choices(predictor_mode=predictor_mode)
        student = models.family.student
        if kappa == 0 or (steps < 2 and not student):
            raise ValueError(
                f"With {steps} steps and kappa {kappa}, no noise is added between steps, so there "
                "is nothing to show. Set steps to 2 or more, and kappa above 0."
            )
        check_matplotlib()
        predictor_on = {} if models.noise_predictor is None else ALL_ON
        sampling = Sampling(seed, steps, kappa, predictor_on, predictor_mode)
        progress = host.Progress()
        engine = stages.make_engine(models, tile_size, overlap, progress)
        y0 = unpack_latent(samples, models)
        shown = 1 if student else steps
        progress.begin(len(y0.samples) * (engine.sample_work(sampling) + shown * DECODE_WORK))
        maps: list[Tensor] = []
        plots: list[Tensor] = []
        for y0_i, lr in zip(y0.samples.split(1), y0.lr.split(1), strict=True):
            recorder = ChainRecorder(engine.schedule(kappa))
            engine.sample(y0_i, lr, sampling, recorder)
            if student:
                recorder.keep_start(student, y0_i)
            noise, x0 = recorder.noise, torch.cat(list(recorder.x0_pred.values()))
            same = replace(lr, rgb=lr.rgb.expand(len(x0), -1, -1, -1))
            quantize = models.family.quantize
            clean, _ = engine.decode(x0, same, Finish("none"), quantize=quantize)
            for t, picture in zip(recorder.x0_pred, clean.movedim(1, -1).split(1), strict=True):
                maps.append(picture)
                if t in noise:
                    maps.append(_enlarged(noise_picture(noise[t])).to(picture))
            plots.append(to_image(Picture(render(draw_figure(lr.rgb, noise)))))
        progress.finish()
        return io.NodeOutput(torch.cat(maps), host.to_result(torch.cat(plots)))


def _enlarged(x: Tensor) -> Tensor:
    """Enlarge x by nearest-neighbour upsampling: x [1,3,h,w] -> IMAGE [1,4h,4w,3]."""
    return to_image(Picture(x.repeat_interleave(SCALE, 2).repeat_interleave(SCALE, 3)))
