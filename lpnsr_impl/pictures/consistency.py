"""Does a super-resolved picture still show the low-resolution one? LR-PSNR and back-projection."""

import torch
from torch import Tensor

from ..config import Wrap
from .wrap import resampled

ITERATIONS = 10

_HIGHEST_PSNR = 100.0
"""dB, of pictures that are equal or as good as."""


def back_project(
    sr: Tensor, lr: Tensor, iterations: int = ITERATIONS, wrap: Wrap = "none"
) -> Tensor:
    """Add what is missing until `sr`, downscaled, is the LR picture (Irani and Peleg).

    Each iteration adds lr - downscale(sr), bicubic in the size of sr. It works in place and channel
    by channel, so that a large picture needs little more than itself.

    Args:
        sr: [B,C,H,W] in [0,1], x4 or of another size; it is changed.
        lr: [B,C,h,w] in [0,1].
        iterations: 0 or more.
        wrap: axes in which both go on periodically.

    Returns:
        `sr`, in [0,1]. Where it had to leave that range, the LR picture is met nearly.

    Raises:
        ValueError: `sr` is of another batch or smaller.
    """
    _check_shapes(sr, lr)
    (height, width), (h, w) = sr.shape[2:], lr.shape[2:]
    for sr_i, lr_i in zip(sr.split(1), lr.split(1), strict=True):
        for plane, target in zip(sr_i.split(1, dim=1), lr_i.split(1, dim=1), strict=True):
            for _ in range(iterations):
                missing = target - resampled(plane, h, w, wrap)
                plane.add_(resampled(missing, height, width, wrap)).clamp_(0, 1)
    return sr


def lr_psnr(sr: Tensor, lr: Tensor, wrap: Wrap = "none") -> float:
    """PSNR in dB between `sr`, downscaled, and the LR picture; the mean over a batch.

    Downscaling is bicubic with antialiasing. Equal pictures have 100 dB.

    Args:
        sr: [B,C,H,W] in [0,1], x4 or of another size.
        lr: [B,C,h,w] in [0,1].
        wrap: axes in which both go on periodically.

    Raises:
        ValueError: `sr` is of another batch or smaller.
    """
    _check_shapes(sr, lr)
    h, w = lr.shape[2:]
    error = torch.cat([resampled(x, h, w, wrap) for x in sr.split(1)]) - lr
    mse = error.square().mean(dim=(1, 2, 3))
    return float((-10 * torch.log10(mse)).clamp(max=_HIGHEST_PSNR).mean())


def _check_shapes(sr: Tensor, lr: Tensor) -> None:
    (*batch, height, width), (*expected, h, w) = sr.shape, lr.shape
    if batch != expected or height < h or width < w:
        raise ValueError(
            f"sr is {tuple(sr.shape)} and lr {tuple(lr.shape)}, expected sr of "
            f"{tuple(lr.shape)}, or higher and wider."
        )
