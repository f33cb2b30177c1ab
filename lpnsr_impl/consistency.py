"""Does a super-resolved picture still show the low-resolution one? LR-PSNR and back-projection."""

import torch
from torch import Tensor

from .config import SCALE, Wrap
from .wrap import downsampled, upsampled

ITERATIONS = 10

_HIGHEST_PSNR = 100.0
"""dB, of pictures that are equal or as good as."""


def back_project(
    sr: Tensor, lr: Tensor, iterations: int = ITERATIONS, wrap: Wrap = "none"
) -> Tensor:
    """Add what is missing until `sr`, downscaled, is the LR picture (Irani and Peleg).

    Each iteration adds the bicubic x4 of lr - downscale(sr). It works in place and channel by
    channel, so that a large picture needs little more than itself.

    Args:
        sr: [B,C,4h,4w] in [0,1]; it is changed.
        lr: [B,C,h,w] in [0,1].
        iterations: 0 or more.
        wrap: axes in which both go on periodically.

    Returns:
        `sr`, in [0,1]. Where it had to leave that range, the LR picture is met nearly.

    Raises:
        ValueError: `sr` is not exactly four times as high and wide.
    """
    _check_shapes(sr, lr)
    for sr_i, lr_i in zip(sr.split(1), lr.split(1), strict=True):
        for plane, target in zip(sr_i.split(1, dim=1), lr_i.split(1, dim=1), strict=True):
            for _ in range(iterations):
                plane.add_(upsampled(target - downsampled(plane, wrap), wrap)).clamp_(0, 1)
    return sr


def lr_psnr(sr: Tensor, lr: Tensor, wrap: Wrap = "none") -> float:
    """PSNR in dB between `sr`, downscaled, and the LR picture; the mean over a batch.

    Downscaling is bicubic with antialiasing. Equal pictures have 100 dB.

    Args:
        sr: [B,C,4h,4w] in [0,1].
        lr: [B,C,h,w] in [0,1].
        wrap: axes in which both go on periodically.

    Raises:
        ValueError: `sr` is not exactly four times as high and wide.
    """
    _check_shapes(sr, lr)
    error = torch.cat([downsampled(x, wrap) for x in sr.split(1)]) - lr
    mse = error.square().mean(dim=(1, 2, 3))
    return float((-10 * torch.log10(mse)).clamp(max=_HIGHEST_PSNR).mean())


def _check_shapes(sr: Tensor, lr: Tensor) -> None:
    b, c, h, w = lr.shape
    if tuple(sr.shape) != (b, c, SCALE * h, SCALE * w):
        raise ValueError(
            f"sr is {tuple(sr.shape)} and lr {tuple(lr.shape)}, expected sr of "
            f"{(b, c, SCALE * h, SCALE * w)}, exactly {SCALE} times as high and wide."
        )
