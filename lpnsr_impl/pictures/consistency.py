"""Agreement of a super-resolved image with its LR image: LR-PSNR and back-projection."""

import torch
from torch import Tensor

from .edges import resample
from .picture import Picture

ITERATIONS = 10

_HIGHEST_PSNR = 100.0
"""PSNR in dB that is reported for equal images, instead of infinity."""


def back_project(sr: Tensor, lr: Picture, iterations: int = ITERATIONS) -> Tensor:
    """Correct `sr` in place so that downscaling it gives the LR image (Irani and Peleg, 1991).

    Each iteration upscales lr - downscale(sr) by bicubic interpolation and adds it to `sr`.
    Channels are processed one after another to save memory.

    Args:
        sr: [B,3,H,W] in [0,1], at least as large as lr; it is modified.
        lr: B LR images.
        iterations: number of iterations, 0 or more.

    Returns:
        `sr`, in [0,1]. Where values were clamped, it agrees with the LR image only approximately.

    Raises:
        ValueError: the batch sizes of `sr` and `lr` differ, or `sr` is smaller than `lr`.
    """
    _check_shapes(sr, lr.rgb)
    (height, width), (_, h, w) = sr.shape[2:], lr.size
    for sr_i, lr_i in zip(sr.split(1), lr.rgb.split(1), strict=True):
        for plane, target in zip(sr_i.split(1, dim=1), lr_i.split(1, dim=1), strict=True):
            for _ in range(iterations):
                missing = target - resample(plane, h, w, lr.wrap)
                plane.add_(resample(missing, height, width, lr.wrap)).clamp_(0, 1)
    return sr


def lr_psnr(sr: Tensor, lr: Picture) -> float:
    """Return the PSNR in dB between the downscaled `sr` and the LR image, at most 100.

    Downscaling is bicubic with antialiasing. The result is the mean over the batch.

    Args:
        sr: [B,3,H,W] in [0,1], at least as large as lr.
        lr: B LR images.

    Raises:
        ValueError: the batch sizes of `sr` and `lr` differ, or `sr` is smaller than `lr`.
    """
    _check_shapes(sr, lr.rgb)
    _, h, w = lr.size
    error = torch.cat([resample(x, h, w, lr.wrap) for x in sr.split(1)]) - lr.rgb
    mse = error.square().mean(dim=(1, 2, 3))
    return float((-10 * torch.log10(mse)).clamp(max=_HIGHEST_PSNR).mean())


def _check_shapes(sr: Tensor, lr: Tensor) -> None:
    (*batch, height, width), (*expected, h, w) = sr.shape, lr.shape
    if batch != expected or height < h or width < w:
        raise ValueError(
            f"sr is {tuple(sr.shape)} and lr {tuple(lr.shape)}, expected equal batch sizes "
            "and channels, and sr at least as large as lr."
        )
