"""Masks: the image is regenerated inside a mask, and the pre-upsampled image is kept elsewhere.

The mask only blends two finished images, and has no effect on sampling. Inpainting must keep the
known latents during sampling, so that the new content fits its surroundings. Super-resolution does
not need this: every step is conditioned on the LR image, so both images show the same content.
Pixels outside of the mask are kept exactly, since they do not pass through the autoencoder. Pixels
inside do not depend on the mask, so the mask can be changed after sampling.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import SCALE, Wrap
from .edges import resample, surround

DEFAULT_FEATHER = 8
"""Default width of a mask's soft edges, in LR pixels."""

_GRAIN = 1 << 16
"""Weights are rounded to multiples of 1 / _GRAIN, so that 0 and 1 are exact."""


def mask_weights(
    mask: Tensor,
    h: int,
    w: int,
    feather: int,
    wrap: Wrap = "none",
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Compute the weight of the regenerated image at each pixel.

    Args:
        mask: [B,1,*,*] in [0,1], of any size; it is resized as ComfyUI's nodes do.
        h, w: size of the LR image.
        feather: width of the mask's soft edges in LR pixels, 0 or more. Half of it is on either
            side of an edge.
        wrap: axes along which the image is periodic.
        size: (H, W) of the result; None for (4h, 4w).

    Returns:
        [B,1,H,W] in [0,1]. Away from edges the weights equal the mask; 0 and 1 are exact.

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
    """Blur with a raised cosine kernel of radius `reach`. x: [B,1,H,W] -> [B,1,H,W]"""
    position = torch.arange(-reach, reach + 1, dtype=torch.float64) / (reach + 1)
    kernel = torch.cos(position * math.pi / 2) ** 2
    kernel = (kernel / kernel.sum()).to(x)
    x = F.conv2d(F.pad(x, (0, 0, reach, reach), mode="replicate"), kernel.view(1, 1, -1, 1))
    return F.conv2d(F.pad(x, (reach, reach, 0, 0), mode="replicate"), kernel.view(1, 1, 1, -1))


def blend(result: Tensor, start: Tensor, weights: Tensor) -> Tensor:
    """Blend two images. Where a weight is 1 or 0, one of them is returned exactly.

    Args:
        result: image that is multiplied by `weights`, [B,3,H,W].
        start: image that is multiplied by 1 - `weights`, [B,3,H,W].
        weights: [B,1,H,W] in [0,1], from `mask_weights`.
    """
    return torch.lerp(start, result, weights.expand_as(result))
