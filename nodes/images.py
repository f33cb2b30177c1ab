"""ComfyUI's IMAGE to pictures of this pack and back. No ComfyUI import."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from ..lpnsr_impl.config import Wrap
from ..lpnsr_impl.pictures.images import split_channels
from ..lpnsr_impl.pictures.picture import Picture

UNIT_RANGE = (0.0, 1.0)
BICUBIC_RANGE = (-0.5, 1.5)
"""How far bicubic x4 of [0,1] can overshoot. PreSet-A keeps the overshoot, as published."""


def to_image(picture: Picture) -> Tensor:
    """IMAGE [B,H,W,3], or [B,H,W,4] with alpha."""
    planes = [picture.rgb] if picture.alpha is None else [picture.rgb, picture.alpha]
    return torch.cat(planes, dim=1).movedim(1, -1).contiguous()


def read_mask(mask: Tensor, pictures: Picture) -> Tensor:
    """Check a MASK for pictures.

    Args:
        mask: [H,W] or [B,H,W] of any float dtype, in any size; it is clamped to [0,1].
        pictures: B of them, which it should have the shape of.

    Returns:
        float32 [B,1,H,W].

    Raises:
        ValueError: no floats, no pixels, NaN or Inf in it, or of another shape or batch size.
    """
    if not mask.is_floating_point() or mask.ndim not in (2, 3) or mask.numel() == 0:
        raise ValueError(
            f"mask is of {mask.dtype} and shape {tuple(mask.shape)}, expected floats [batch, "
            "height, width]. Look at the node before it."
        )
    if not mask.isfinite().all():
        raise ValueError("mask has NaN or infinite values. Look at the node before it.")
    b, h, w = pictures.size
    x = mask.float().reshape(-1, 1, *mask.shape[-2:]).clamp(0, 1)
    height, width = x.shape[2:]
    # Whoever resized it may have rounded one side.
    if min(abs(height - width * h / w), abs(width - height * w / h)) > 1:
        raise ValueError(
            f"mask is {width}x{height}, expected the shape of the image, {w}x{h}, in any size. "
            "Paint it on that image. (Load Image gives an empty mask of 64x64 where nothing is "
            "painted.)"
        )
    if len(x) not in (1, b):
        raise ValueError(f"mask has {len(x)} masks, expected 1, or {b} as there are images.")
    return x.expand(b, -1, -1, -1)


def read_image(
    image: Tensor,
    name: str,
    value_range: tuple[float, float] = UNIT_RANGE,
    wrap: Wrap = "none",
    note: Callable[[str], None] = logging.info,
) -> Picture:
    """Check an IMAGE and take it apart.

    Args:
        image: [B,H,W,C] of any float dtype; C is 1 (grey), 3 (RGB) or 4 (RGBA).
        name: the input's name, for errors.
        value_range: RGB is clamped to it, alpha always to [0,1].
        wrap: axes along which the images continue at their other edge.
        note: receives a line about what of the image is not used.

    Raises:
        ValueError: no floats, another shape, no pixels, or NaN or Inf in it.
    """
    if not image.is_floating_point():
        raise ValueError(
            f"{name} is of {image.dtype}, expected floats from 0 to 1, as Load Image gives. Look "
            "at the node before it."
        )
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"{name} has shape {tuple(image.shape)}, expected an IMAGE [batch, height, width, "
            "channels] of 1 (grey), 3 (RGB) or 4 (RGBA) channels."
        )
    if image.numel() == 0:
        raise ValueError(
            f"{name} has shape {tuple(image.shape)} and no pixels, expected 1x1 or more."
        )
    # Strides decide the order of sums. So that they do not show, all pictures have the same.
    x = image.float().contiguous().movedim(-1, 1)
    finite = x.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        bad = int((~finite).nonzero()[0, 0])
        raise ValueError(
            f"{name} has NaN or infinite values (first in image {bad} of {len(finite)}). Look at "
            "the node before it; e.g. a VAE in fp16 gives such pictures."
        )
    rgb, (low, high) = x[:, :3], value_range
    beyond = ((rgb < low) | (rgb > high)).any(dim=1).float().mean().item()
    if beyond:
        note(f"{beyond:.1%} of the pixels of {name} are outside {low:g} to {high:g}: clamped")
        x = torch.cat([rgb.clamp(low, high), x[:, 3:]], dim=1)  # before colours are filled in
    rgb, alpha = split_channels(x)
    if alpha is None and x.shape[1] == 4:
        note(f"{name} is opaque, so its alpha is dropped")
    return Picture(rgb, alpha, wrap)
