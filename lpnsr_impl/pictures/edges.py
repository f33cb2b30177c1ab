"""Resampling and filtering of images that may be periodic."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import Wrap, wraps

_BICUBIC_REACH = 3
"""Padding for bicubic resampling, in pixels of the smaller image: the kernel's radius 2, plus 1."""


def surround(function: Callable[..., Tensor], *inputs: Tensor, reach: int, wrap: Wrap) -> Tensor:
    """Apply a filter to images, with periodic padding along the axes that wrap.

    Args:
        function: maps tensors [B,*,H,W] to one tensor of the same height and width.
        inputs: tensors [B,*,H,W].
        reach: number of pixels to pad at each edge.
        wrap: axes along which the images are periodic; there is no padding along other axes.

    Returns:
        [B,*,H,W].
    """
    h, w = inputs[0].shape[2:]
    (top, left) = (reach if on else 0 for on in wraps(wrap))
    result = function(*(_extend(x, top, left) for x in inputs))
    return result[:, :, top : top + h, left : left + w]


def resample(x: Tensor, h: int, w: int, wrap: Wrap = "none") -> Tensor:
    """Resize by bicubic interpolation, with antialiasing if the image becomes smaller.

    x: [B,C,H,W] -> [B,C,h,w]
    """
    if tuple(x.shape[2:]) == (h, w):
        return x
    margins, sizes = [0, 0], [h, w]
    for dim, (old, new, on) in enumerate(zip(x.shape[2:], (h, w), wraps(wrap), strict=True)):
        if on:
            # A margin of a multiple of `unit` pixels is resized to a whole number of pixels.
            unit = old // math.gcd(old, new)
            margins[dim] = -(-_BICUBIC_REACH * max(old, new) // (new * unit)) * unit
            sizes[dim] += 2 * margins[dim] * new // old
    top, left = ((size - new) // 2 for size, new in zip(sizes, (h, w), strict=True))
    antialias = h < x.shape[2] or w < x.shape[3]
    x = _extend(x, *margins)
    x = F.interpolate(x, sizes, mode="bicubic", align_corners=False, antialias=antialias)
    return x[:, :, top : top + h, left : left + w]


def _extend(x: Tensor, top: int, left: int) -> Tensor:
    """Pad periodically by `top` rows at top and bottom, and by `left` columns at left and right."""
    for dim, margin in ((2, top), (3, left)):
        if margin:
            size = x.shape[dim]
            source = torch.arange(-margin, size + margin, device=x.device) % size
            x = x.index_select(dim, source)
    return x
