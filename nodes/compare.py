"""LPNSRCompare: the result beside the LR picture, one at a time under a slider."""

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..lpnsr_impl.pictures.images import resize
from ..lpnsr_impl.pictures.picture import Picture
from .images import read_image, to_image
from .schema import schema


class LPNSRCompare(io.ComfyNode):
    """Shows pairs of pictures. `js/compare.js` makes a before/after slider of them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LPNSRCompare",
            display_name="LPNSR Compare",
            description="Compares the result with the low-resolution image, bicubic in the "
            "result's size, under a slider. Saves nothing.",
            search_aliases=[
                "compare images",
                "before after",
                "image compare",
                "slider",
                "comparer",
            ],
            inputs=[
                io.Image.Input("image", tooltip="The result, from LPNSR Decode or LPNSR Upscale."),
                io.Image.Input(
                    "lr_image",
                    tooltip="The low-resolution image that the result was made from, of any "
                    "size. The nth of a batch is compared with the nth result.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "passed_image",
                    display_name="image",
                    tooltip="The result, unchanged, for the nodes after this one.",
                )
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, image: Tensor, lr_image: Tensor) -> io.NodeOutput:
        result, lr = read_image(image, "image"), read_image(lr_image, "lr_image")
        return io.NodeOutput(image, ui=ui.PreviewImage(pairs(lr, result), cls=cls))


def pairs(lr: Picture, result: Picture) -> Tensor:
    """IMAGE of 2B pictures in the result's size: LR, result, LR, result, ...

    Alpha is kept if both have it.

    Raises:
        ValueError: the batches differ in number.
    """
    b, h, w = result.size
    if lr.size[0] != b:
        raise ValueError(
            f"image has {b} and lr_image {lr.size[0]} pictures, expected equal numbers. Connect "
            "the LR images that the results were made from."
        )
    if lr.alpha is None or result.alpha is None:
        lr, result = Picture(lr.rgb), Picture(result.rgb)
    before = resize(to_image(lr).movedim(-1, 1), h, w).clamp(0, 1).movedim(1, -1)
    return torch.stack([before, to_image(result)], dim=1).flatten(0, 1)
