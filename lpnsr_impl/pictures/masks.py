"""Regenerate inside a mask, and keep the pre-upsampled picture elsewhere.

The mask chooses between two finished pictures, and has no part in the chain. Inpainting has to keep
the known latents there, so that what it invents fits what surrounds it. Here the LR picture, which
every step sees, makes both pictures show the same things. So there is nothing to fit, what is kept
is exact to the last bit, never having been through the autoencoder, and what is inside is the same
with any mask: it can be repainted after sampling.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import SCALE, Wrap
from .edges import resample, surround

DEFAULT_FEATHER = 8
"""In LR pixels."""

_GRAIN = 1 << 16
"""Weights are rounded to multiples of 1 / this, so that 0 and 1 are exact."""


def mask_weights(
    mask: Tensor,
    h: int,
    w: int,
    feather: int,
    wrap: Wrap = "none",
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Share of the result in each pixel.

    Args:
        mask: [B,1,*,*] in [0,1], of any size; resized as ComfyUI's own nodes do.
        h, w: of the LR image.
        feather: LR pixels over which the mask's edges fade, half of them on either side; 0 or more.
        wrap: axes along which the image continues at its other edge.
        size: (H, W) of the result; None for x4.

    Returns:
        [B,1,H,W] in [0,1]. Away from edges it equals the mask: exactly 1 where that is 1.

    Raises:
        ValueError: feather is negative.
    """
    if feather < 0:
        raise ValueError(f"feather is {feather}, expected 0 or more.")
    x4 = (SCALE * h, SCALE * w)
    x = mask.float()
    if tuple(x.shape[2:]) != x4:
        x = F.interpolate(x, size=x4, mode="bilinear", align_corners=False, antialias=True)
    reach = SCALE * feather // 2
    if reach:
        x = surround(lambda x: _blur(x, reach), x, reach=reach, wrap=wrap)
    x = resample(x, *(size or x4), wrap).clamp(0, 1)
    return (x * _GRAIN).round() / _GRAIN


def _blur(x: Tensor, reach: int) -> Tensor:
    """Blur by a raised cosine of this radius, [B,1,H,W]."""
    position = torch.arange(-reach, reach + 1, dtype=torch.float64) / (reach + 1)
    kernel = torch.cos(position * math.pi / 2) ** 2
    kernel = (kernel / kernel.sum()).to(x)
    x = F.conv2d(F.pad(x, (0, 0, reach, reach), mode="replicate"), kernel.view(1, 1, -1, 1))
    return F.conv2d(F.pad(x, (reach, reach, 0, 0), mode="replicate"), kernel.view(1, 1, 1, -1))


def blend(result: Tensor, start: Tensor, weights: Tensor) -> Tensor:
    """The result where weights are 1, the start where they are 0, both exactly.

    Args:
        result, start: [B,3,H,W].
        weights: [B,1,H,W], from `mask_weights`.
    """
    return torch.lerp(start, result, weights.expand_as(result))
