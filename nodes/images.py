"""Converts ComfyUI's IMAGE and MASK to the types of this pack, and back. Does not import
ComfyUI."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from ..lpnsr_impl.config import Wrap
from ..lpnsr_impl.pictures.images import split_channels
from ..lpnsr_impl.pictures.picture import Picture

UNIT_RANGE = (0.0, 1.0)
BICUBIC_RANGE = (-0.5, 1.5)
"""Range of an image in [0,1] after bicubic x4 interpolation, which overshoots at edges. PreSet-A
keeps the overshoot, as the published code does."""


def to_image(picture: Picture) -> Tensor:
    """Convert pictures to an IMAGE [B,H,W,3], or [B,H,W,4] if they have alpha."""
    planes = [picture.rgb] if picture.alpha is None else [picture.rgb, picture.alpha]
    return torch.cat(planes, dim=1).movedim(1, -1).contiguous()


def read_mask(mask: Tensor, pictures: Picture) -> Tensor:
    """Check and convert a MASK.

    Args:
        mask: [H,W] or [B,H,W] of any float dtype; it is clamped to [0,1].
        pictures: the B pictures that the mask is for. The mask must have their aspect ratio, but
            may have another size.

    Returns:
        float32 [B,1,H,W].

    Raises:
        ValueError: the mask has no float dtype, no pixels, or NaN or infinite values, or its aspect
            ratio or batch size does not match.
    """
    if not mask.is_floating_point() or mask.ndim not in (2, 3) or mask.numel() == 0:
        raise ValueError(
            f"mask has the dtype {mask.dtype} and shape {tuple(mask.shape)}, expected floats "
            "[batch, height, width]. Check the node that outputs the mask."
        )
    if not mask.isfinite().all():
        raise ValueError("mask has NaN or infinite values. Check the node that outputs the mask.")
    b, h, w = pictures.size
    x = mask.float().reshape(-1, 1, *mask.shape[-2:]).clamp(0, 1)
    height, width = x.shape[2:]
    # One side may have been rounded when the mask was resized.
    if min(abs(height - width * h / w), abs(width - height * w / h)) > 1:
        raise ValueError(
            f"mask is {width}x{height}, expected any size with the aspect ratio of the image, "
            f"{w}x{h}. Paint it on that image. (If nothing is painted, Load Image outputs an empty "
            "mask of 64x64.)"
        )
    if len(x) not in (1, b):
        raise ValueError(
            f"mask has batch size {len(x)}, expected 1 (for all images) or {b} (one for each)."
        )
    return x.expand(b, -1, -1, -1)


def read_image(
    image: Tensor,
    name: str,
    value_range: tuple[float, float] = UNIT_RANGE,
    wrap: Wrap = "none",
    note: Callable[[str], None] = logging.info,
) -> Picture:
    """Check an IMAGE, and split it into colours and alpha.

    Args:
        image: [B,H,W,C] of any float dtype; C is 1 (grey), 3 (RGB) or 4 (RGBA).
        name: name of the node's input, for error messages.
        value_range: range that RGB is clamped to. Alpha is always clamped to [0,1].
        wrap: axes along which the images are periodic.
        note: called with a message if values are clamped or alpha is dropped.

    Raises:
        ValueError: the image has no float dtype, a wrong shape, no pixels, or NaN or infinite
            values.
    """
    if not image.is_floating_point():
        raise ValueError(
            f"{name} has the dtype {image.dtype}, expected floats from 0 to 1, like the output of "
            "Load Image. Check the node that outputs the image."
        )
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"{name} has shape {tuple(image.shape)}, expected an IMAGE [batch, height, width, "
            "channels] with 1 (grey), 3 (RGB) or 4 (RGBA) channels."
        )
    if image.numel() == 0:
        raise ValueError(
            f"{name} has shape {tuple(image.shape)} and no pixels, expected 1x1 or more."
        )
    # All pictures get the same memory layout: it affects the order of summation, hence rounding.
    x = image.float().contiguous().movedim(-1, 1)
    finite = x.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        bad = int((~finite).nonzero()[0, 0])
        raise ValueError(
            f"{name} has NaN or infinite values (first in image {bad} of {len(finite)}). Check the "
            "node that outputs the image; a VAE in fp16, for example, can cause this."
        )
    rgb, (low, high) = x[:, :3], value_range
    beyond = ((rgb < low) | (rgb > high)).any(dim=1).float().mean().item()
    if beyond:
        note(f"{beyond:.1%} of the pixels of {name} are outside {low:g} to {high:g}: clamped")
        # Clamp before `split_channels` replaces the colours of transparent pixels.
        x = torch.cat([rgb.clamp(low, high), x[:, 3:]], dim=1)
    rgb, alpha = split_channels(x)
    if alpha is None and x.shape[1] == 4:
        note(f"{name} is opaque, so its alpha is dropped")
    return Picture(rgb, alpha, wrap)
