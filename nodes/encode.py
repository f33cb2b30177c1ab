"""ResShiftEncode: encodes the pre-upsampled image."""

from comfy_api.latest import io
from torch import Tensor

from ..lpnsr_impl.config import Wrap
from ..lpnsr_impl.engine.engine import ENCODE_WORK
from ..lpnsr_impl.engine.tiled import DEFAULT_OVERLAP
from . import host, stages, widgets
from .images import BICUBIC_RANGE, read_image
from .models import Carried, LPNSRModels, LPNSRModelsType
from .schema import schema


class ResShiftEncode(io.ComfyNode):
    """Encodes the pre-upsampled image y0-hat into the latent y0.

    The LATENT also carries the LR image, on which every diffusion step is conditioned.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ResShiftEncode",
            display_name="ResShift Encode",
            description="Encodes the pre-upsampled image into a latent that also carries "
            "the LR image.",
            search_aliases=["encode image", "image to latent"],
            inputs=[
                LPNSRModelsType.Input("models", tooltip="From Load LPNSR Models."),
                io.Image.Input(
                    "image", tooltip="The pre-upsampled image, from LPNSR Pre-Upsample."
                ),
                io.Image.Input(
                    "lr_image",
                    tooltip="The low-resolution image, a quarter as high and wide as image.",
                ),
                widgets.TILE_SIZE,
                widgets.OVERLAP,
                widgets.WRAP,
            ],
            outputs=[
                io.Latent.Output(
                    "latent",
                    display_name="latent",
                    tooltip="The latent, which carries the LR image. For LPNSR Sample.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, wrap: str | None = None) -> bool | str:
        return widgets.check_choices(wrap=wrap)

    @classmethod
    def execute(
        cls,
        models: LPNSRModels,
        image: Tensor,
        lr_image: Tensor,
        tile_size: int = 0,
        overlap: int = DEFAULT_OVERLAP,
        wrap: Wrap = "none",
    ) -> io.NodeOutput:
        widgets.require_choices(wrap=wrap)
        progress = host.Progress(len(image) * ENCODE_WORK)
        start = read_image(image, "image", BICUBIC_RANGE, note=progress.note)
        lr = read_image(lr_image, "lr_image", wrap=wrap, note=progress.note)
        stages.check_start(start, lr)
        engine = stages.make_engine(models, tile_size, overlap, progress)
        y0 = engine.encode([start.rgb], lr)
        alpha = lr.resize(*start.size[1:]).alpha if start.alpha is None else start.alpha
        progress.finish()
        return io.NodeOutput(Carried(y0, lr, alpha, models.family.name).latent())
