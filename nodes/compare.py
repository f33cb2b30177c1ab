"""LPNSRCompare: compares the result with the LR image in a before/after slider."""

import logging
from collections.abc import Iterator
from typing import Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor
from torch.nn import functional as F

from ..lpnsr_impl.pictures.edges import resample
from ..lpnsr_impl.pictures.picture import Picture
from . import host
from .images import read_image, to_image
from .schema import schema


class LPNSRCompare(io.ComfyNode):
    """Saves pairs of pictures as previews, which `js/compare.js` shows in a before/after slider."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LPNSRCompare",
            display_name="LPNSR Compare",
            description="Shows the result and the low-resolution image (enlarged by bicubic "
            "interpolation) in a before/after slider. Saves nothing.",
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
                    "size. In a batch, the nth image is compared with the nth result. If its "
                    "aspect ratio differs, the whole image is shown with bars at the sides.",
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
        if len(image) != len(lr_image):
            raise ValueError(
                f"image has {len(image)} pictures and lr_image has {len(lr_image)}, expected equal "
                "numbers. Connect the LR images that the results were made from."
            )
        progress = host.Progress()
        shown: list[Any] = []
        fitted: list[list[int]] = []
        for i, (lr, result) in enumerate(_pairs(image, lr_image), start=1):
            if i == 1 and size_in(lr, result) != result.size[1:]:
                fitted = [[lr.size[2], lr.size[1]]]
                logging.warning("LPNSR Compare: %s", _about_shapes(lr, result))
            shown += ui.PreviewImage(pair(lr, result), cls=cls).as_dict()["images"]
            progress.at(i, len(image))
        return io.NodeOutput(image, ui={"images": shown, "fitted": fitted})


def _pairs(image: Tensor, lr_image: Tensor) -> Iterator[tuple[Picture, Picture]]:
    """Yield pairs (LR picture, result) one at a time, since converted copies of a whole video may
    not fit into memory."""
    for result, lr in zip(image.split(1), lr_image.split(1), strict=True):
        yield read_image(lr, "lr_image"), read_image(result, "image")


def pair(lr: Picture, result: Picture) -> Tensor:
    """Stack an LR picture and its result into an IMAGE [2,H,W,C].

    The LR picture is resized to the size H x W of the result. If the aspect ratios differ, it is
    centred between black or transparent bars. Alpha is kept if both pictures have it.
    """
    if lr.alpha is None or result.alpha is None:
        lr, result = Picture(lr.rgb), Picture(result.rgb)
    h, w = size_in(lr, result)
    before = resample(to_image(lr).movedim(-1, 1), h, w).clamp(0, 1)
    _, height, width = result.size
    left, top = (width - w) // 2, (height - h) // 2
    before = F.pad(before, (left, width - w - left, top, height - h - top))
    return torch.cat([before.movedim(1, -1), to_image(result)])


def size_in(lr: Picture, result: Picture) -> tuple[int, int]:
    """Return the height and width at which an LR picture is shown.

    If both aspect ratios agree, apart from rounding of the sides to whole pixels, this is the size
    of the result. Otherwise the LR picture keeps its aspect ratio, and is as large as fits into the
    result.
    """
    _, h, w = lr.size
    _, height, width = result.size
    if abs(height / h - width / w) <= 1 / h + 1 / w:
        return height, width
    factor = min(height / h, width / w)
    return max(1, round(h * factor)), max(1, round(w * factor))


def _about_shapes(lr: Picture, result: Picture) -> str:
    _, h, w = lr.size
    _, height, width = result.size
    return (
        f"lr_image is {w}x{h} and image is {width}x{height}: their aspect ratios differ. The whole "
        "lr_image is shown with bars at the sides."
    )
