"""Resampling and padding of [B,C,h,w] tensors, before and after the networks."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import SCALE


def to_pm1(x_01: Tensor) -> Tensor:
    """[0,1] -> [-1,1]"""
    return 2 * x_01 - 1


def to_01(x_pm1: Tensor) -> Tensor:
    """[-1,1] -> [0,1], clamped."""
    return ((x_pm1 + 1) / 2).clamp(0, 1)


def bicubic_upsample(x: Tensor) -> Tensor:
    """Bicubic x4, [B,C,h,w] -> [B,C,4h,4w]: y0-hat of PreSet-A. Edges may overshoot."""
    return F.interpolate(x, scale_factor=float(SCALE), mode="bicubic", align_corners=False)


def resize(x: Tensor, h: int, w: int) -> Tensor:
    """Bicubic to any size, with antialiasing where it gets smaller. [B,C,H,W] -> [B,C,h,w]"""
    if tuple(x.shape[2:]) == (h, w):
        return x
    return F.interpolate(x, size=(h, w), mode="bicubic", align_corners=False, antialias=True)


def reflect_pad(x: Tensor, h: int, w: int) -> Tensor:
    """Extend to [B,C,h,w] by mirroring at the bottom and right edge.

    Unlike `torch.nn.functional.pad` it mirrors again and again, so it works from 1x1 up.

    Raises:
        ValueError: h or w is smaller than it is already.
    """
    if h < x.shape[2] or w < x.shape[3]:
        raise ValueError(
            f"Cannot pad height {x.shape[2]} and width {x.shape[3]} to {h} and {w}; expected "
            "larger sizes."
        )
    return x[:, :, _mirrored(x.shape[2], h, x.device)][:, :, :, _mirrored(x.shape[3], w, x.device)]


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Extend height and width by mirroring to the next multiples. [B,C,h,w] -> [B,C,h',w']"""
    h, w = (-(-size // multiple) * multiple for size in x.shape[2:])
    return reflect_pad(x, h, w)


def _mirrored(size: int, target: int, device: torch.device) -> Tensor:
    """Source index of each of `target` positions: 0 1 2 1 0 1 ... for size 3."""
    index = torch.arange(target, device=device) % max(2 * (size - 1), 1)
    return torch.where(index < size, index, 2 * (size - 1) - index)
