"""LPNSRInventionMap: shows where the result depends on the seed."""

from dataclasses import replace
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..lpnsr_impl.config import PredictorMode
from ..lpnsr_impl.engine.engine import DECODE_WORK, ENCODE_WORK
from ..lpnsr_impl.engine.finish import Finish
from ..lpnsr_impl.engine.tiled import DEFAULT_OVERLAP
from ..lpnsr_impl.method.sampler import ALL_ON, Sampling
from ..lpnsr_impl.pictures.invention import RunningDeviation, heat_map
from ..lpnsr_impl.pictures.picture import upsample_bicubic
from . import host, stages, widgets
from .images import read_image
from .models import LPNSRModels, LPNSRModelsType
from .schema import schema

_FULL_SCALE = 0.1
"""Standard deviation of pixel values in [0,1] that is mapped to 1 in the mask and to the brightest
colour in the heat map."""

_SEEDS = 1 << 64

_COPIES = 6
"""Number of fp32 images of x4 size held in memory for each LR image: the mean, the sum of squared
deviations, the result, and intermediate tensors."""


class LPNSRInventionMap(io.ComfyNode):
    """Computes the standard deviation over the results of several seeds. It is large where the LR
    image does not determine the detail."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LPNSRInventionMap",
            display_name="LPNSR Invention Map",
            description="Upscales an image with several seeds and shows where the results differ: "
            "there, the detail is invented. Takes about as long as one run of LPNSR Upscale for "
            "each seed, although the image is pre-upsampled and encoded only once.",
            search_aliases=["hallucination", "uncertainty", "heat map"],
            inputs=[
                LPNSRModelsType.Input("models", tooltip="From Load LPNSR Models."),
                widgets.IMAGE,
                widgets.UPSCALE_MODEL,
                widgets.SEED,
                io.Int.Input(
                    "seeds",
                    default=4,
                    min=2,
                    max=16,
                    tooltip="Number of seeds: seed, seed + 1, and so on. More seeds make the map "
                    "smoother and take longer, but need no more memory.",
                ),
                widgets.STEPS,
                widgets.KAPPA,
                widgets.USE_PREDICTOR,
                widgets.PREDICTOR_MODE,
                widgets.COLOR_FIX,
                widgets.TILE_SIZE,
                widgets.OVERLAP,
            ],
            outputs=[
                io.Image.Output(
                    "heat_map",
                    display_name="heat map",
                    tooltip="The standard deviation as colours. Dark areas are determined by the "
                    "LR image; bright areas are invented.",
                ),
                io.Mask.Output(
                    "deviation",
                    display_name="deviation",
                    tooltip="Standard deviation over the seeds, as a mask (root mean square of "
                    f"red, green and blue). 1 stands for {_FULL_SCALE} of the range from black to "
                    "white, or more.",
                ),
                io.Image.Output(
                    "mean_image",
                    display_name="mean image",
                    tooltip="The mean of the results of all seeds. It is sharp where they agree.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, predictor_mode: str | None, color_fix: str | None) -> bool | str:
        return widgets.check_choices(predictor_mode=predictor_mode, color_fix=color_fix)

    @classmethod
    def execute(
        cls,
        models: LPNSRModels,
        image: Tensor,
        seed: int,
        seeds: int,
        steps: int,
        kappa: float,
        use_predictor: bool,
        predictor_mode: PredictorMode,
        color_fix: str,
        upscale_model: Any | None = None,
        tile_size: int = 0,
        overlap: int = DEFAULT_OVERLAP,
    ) -> io.NodeOutput:
        widgets.require_choices(predictor_mode=predictor_mode, color_fix=color_fix)
        progress = host.Progress()
        lr = read_image(image, "image", note=progress.note)
        engine = stages.make_engine(models, tile_size, overlap, progress)
        sampling = Sampling(seed, steps, kappa, ALL_ON if use_predictor else {}, predictor_mode)
        once = engine.sample_work(sampling) + DECODE_WORK
        progress.begin(len(image) * (ENCODE_WORK + seeds * once))
        stages.check_memory(lr, copies=_COPIES)
        start = stages.start_by(upscale_model) or upsample_bicubic
        y0 = engine.encode(engine.make_starts(lr, start), lr)
        finish, quantize = Finish(color_fix), models.family.quantize
        running = RunningDeviation()
        for i in range(seeds):
            with_seed = replace(sampling, seed=(seed + i) % _SEEDS)
            x0 = engine.sample(y0, lr, with_seed)
            result, _ = engine.decode(x0, lr, finish, alpha=lr.alpha, quantize=quantize)
            running.add(result.movedim(1, -1).float())
        rgb = running.deviation()[..., :3]  # alpha is left out, as it does not depend on the seed
        deviation = (rgb.square().mean(dim=-1).sqrt() / _FULL_SCALE).clamp(0, 1)
        progress.finish()
        return io.NodeOutput(
            *(host.to_result(x) for x in (heat_map(deviation), deviation, running.mean))
        )
