"""LPNSRDecode: decodes the clean latent into an image."""

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..lpnsr_impl.engine.engine import DECODE_WORK
from ..lpnsr_impl.engine.finish import Finish, Region
from ..lpnsr_impl.engine.tiled import DEFAULT_OVERLAP
from ..lpnsr_impl.pictures.masks import DEFAULT_FEATHER
from . import host, stages, widgets
from .images import BICUBIC_RANGE, read_image, read_mask
from .models import LPNSRModels, LPNSRModelsType, unpack_latent
from .schema import schema


class LPNSRDecode(io.ComfyNode):
    """Quantises and decodes a latent, and corrects the colours of the image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LPNSRDecode",
            display_name="LPNSR Decode",
            description="Decodes the latent into an image of exactly four times the LR "
            "image's height and width.",
            search_aliases=["decode latent", "latent to image"],
            inputs=[
                LPNSRModelsType.Input("models", tooltip="From Load LPNSR Models."),
                io.Latent.Input("samples", tooltip="From LPNSR Sample."),
                widgets.COLOR_FIX,
                widgets.TILE_SIZE,
                widgets.OVERLAP,
                widgets.LR_IMAGE,
                widgets.LR_CONSISTENCY,
                widgets.MASK,
                io.Image.Input(
                    "start_image",
                    optional=True,
                    tooltip="The pre-upsampled image from LPNSR Pre-Upsample, which is kept where "
                    "the mask is 0. Only needed with a mask.",
                ),
                widgets.FEATHER,
            ],
            outputs=[
                io.Image.Output(
                    "image",
                    display_name="image",
                    tooltip="The super-resolved image, RGBA if the LR image had alpha.",
                ),
                widgets.LR_PSNR,
            ],
        )

    @classmethod
    def validate_inputs(cls, color_fix: str | None) -> bool | str:
        return widgets.check_choices(color_fix=color_fix)

    @classmethod
    def execute(
        cls,
        models: LPNSRModels,
        samples: dict[str, Any],
        color_fix: str,
        tile_size: int = 0,
        overlap: int = DEFAULT_OVERLAP,
        lr_image: Tensor | None = None,
        lr_consistency: bool = False,
        mask: Tensor | None = None,
        start_image: Tensor | None = None,
        feather: int = DEFAULT_FEATHER,
    ) -> io.NodeOutput:
        widgets.require_choices(color_fix=color_fix)
        if (mask is None) != (start_image is None):
            raise ValueError(
                "mask and start_image belong together. Connect both or none. start_image is the "
                "image from LPNSR Pre-Upsample, which is kept where the mask is 0."
            )
        progress = host.Progress(len(samples["samples"]) * DECODE_WORK)
        engine = stages.make_engine(models, tile_size, overlap, progress)
        x0 = unpack_latent(
            samples, models, None if lr_image is None else read_image(lr_image, "lr_image")
        )
        stages.check_memory(x0.lr)
        region = None
        if mask is not None and start_image is not None:
            start = read_image(start_image, "start_image", BICUBIC_RANGE)
            stages.check_start(start, x0.lr)
            region = Region(read_mask(mask, start), feather, start.rgb)
        finish = Finish(color_fix, lr_consistency=lr_consistency, region=region)
        images, psnr = engine.decode(
            x0.samples, x0.lr, finish, alpha=x0.alpha, quantize=x0.quantize
        )
        progress.finish()
        return io.NodeOutput(images.movedim(1, -1), psnr)
