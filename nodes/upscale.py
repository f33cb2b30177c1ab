"""LPNSRUpscale: pre-upsamples, encodes, samples and decodes in one node."""

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..lpnsr_impl.config import SCALE, PredictorMode, Wrap
from ..lpnsr_impl.engine.finish import Finish, Region
from ..lpnsr_impl.engine.tiled import DEFAULT_OVERLAP
from ..lpnsr_impl.method.sampler import ALL_ON, Sampling
from ..lpnsr_impl.pictures.masks import DEFAULT_FEATHER
from ..lpnsr_impl.pictures.target import Target
from . import host, stages, widgets
from .images import read_image, read_mask
from .models import LPNSRModels, LPNSRModelsType
from .schema import schema


class LPNSRUpscale(io.ComfyNode):
    """The complete super-resolution. It supports all presets of the LPNSR paper."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LPNSRUpscale",
            display_name="LPNSR Upscale",
            description="Upscales an image in one node, x4 or to the size you set. For the paper's "
            "PreSet-A leave upscale_model unconnected, for PreSet-B connect it, and for plain "
            "ResShift turn use_predictor off.",
            search_aliases=[
                "upscaler",
                "upscale image",
                "super resolution",
                "superres",
                "enhance",
                "x4",
                "enlarge",
                "hires",
                "target size",
            ],
            inputs=[
                LPNSRModelsType.Input("models", tooltip="From Load LPNSR Models."),
                widgets.IMAGE,
                widgets.UPSCALE_MODEL,
                widgets.SEED,
                widgets.STEPS,
                widgets.KAPPA,
                widgets.USE_PREDICTOR,
                widgets.PREDICTOR_MODE,
                widgets.COLOR_FIX,
                widgets.TILE_SIZE,
                widgets.OVERLAP,
                widgets.LR_CONSISTENCY,
                widgets.MASK,
                widgets.FEATHER,
                widgets.WRAP,
                widgets.FACTOR,
                widgets.LONGEST_SIDE,
            ],
            outputs=[
                io.Image.Output(
                    "upscaled_image",
                    display_name="image",
                    tooltip="The upscaled image: exactly four times as high and wide, or of the "
                    "size you set. RGBA if the input image has alpha.",
                ),
                widgets.LR_PSNR,
            ],
        )

    @classmethod
    def validate_inputs(
        cls, predictor_mode: str | None, color_fix: str | None, wrap: str | None = None
    ) -> bool | str:
        return widgets.check_choices(predictor_mode=predictor_mode, color_fix=color_fix, wrap=wrap)

    @classmethod
    def execute(
        cls,
        models: LPNSRModels,
        image: Tensor,
        seed: int,
        steps: int,
        kappa: float,
        use_predictor: bool,
        predictor_mode: PredictorMode,
        color_fix: str,
        upscale_model: Any | None = None,
        tile_size: int = 0,
        overlap: int = DEFAULT_OVERLAP,
        lr_consistency: bool = False,
        mask: Tensor | None = None,
        feather: int = DEFAULT_FEATHER,
        wrap: Wrap = "none",
        factor: float = SCALE,
        longest_side: int = 0,
    ) -> io.NodeOutput:
        widgets.require_choices(predictor_mode=predictor_mode, color_fix=color_fix, wrap=wrap)
        progress = host.Progress()
        lr = read_image(image, "image", wrap=wrap, note=progress.note)
        region = None if mask is None else Region(read_mask(mask, lr), feather)
        predictor_on = ALL_ON if use_predictor else {}
        engine = stages.make_engine(models, tile_size, overlap, progress)
        images, psnr = engine.upscale(
            lr,
            stages.start_by(upscale_model),
            Sampling(seed, steps, kappa, predictor_on, predictor_mode),
            Finish(color_fix, lr_consistency=lr_consistency, region=region),
            Target(factor, longest_side),
        )
        progress.finish()
        return io.NodeOutput(images.movedim(1, -1), psnr)
