"""LPNSRPreUpsample: upsamples the LR image x4 as the start of the diffusion."""

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..lpnsr_impl.config import Wrap
from ..lpnsr_impl.pictures.picture import Picture, upsample_bicubic, upscale_alpha
from . import host, stages, widgets
from .images import read_image, to_image
from .schema import schema


class LPNSRPreUpsample(io.ComfyNode):
    """Computes y0-hat, the start of the diffusion (Section 3.1 of the LPNSR paper), by bicubic
    interpolation (PreSet-A) or an SR network (PreSet-B)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LPNSRPreUpsample",
            display_name="LPNSR Pre-Upsample",
            description="Upsamples the LR image exactly x4 as the start of the diffusion: "
            "with an upscale model (PreSet-B) or by bicubic interpolation (PreSet-A).",
            search_aliases=["upscale", "bicubic", "enlarge"],
            inputs=[
                widgets.IMAGE,
                io.UpscaleModel.Input(
                    "upscale_model",
                    optional=True,
                    tooltip="Any model from Load Upscale Model. If its scale is not 4, its output "
                    "is resized to x4. If not connected: bicubic interpolation.",
                ),
                widgets.WRAP,
            ],
            outputs=[
                io.Image.Output(
                    "upscaled_image",
                    display_name="image",
                    tooltip="For ResShift Encode: the upsampled image, exactly four times as high "
                    "and wide.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, wrap: str | None = None) -> bool | str:
        return widgets.check_choices(wrap=wrap)

    @classmethod
    def execute(
        cls, image: Tensor, upscale_model: Any | None = None, wrap: Wrap = "none"
    ) -> io.NodeOutput:
        widgets.require_choices(wrap=wrap)
        lr, start = read_image(image, "image", wrap=wrap), stages.start_by(upscale_model)
        stages.check_memory(lr, copies=2)
        start_image = Picture((start or upsample_bicubic)(lr), upscale_alpha(lr, start))
        return io.NodeOutput(host.to_result(to_image(start_image)))
