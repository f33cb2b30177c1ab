"""Real-ESRGAN's blur kernels: Gaussian, generalised Gaussian, plateau and sinc.

Kernels are float32 tensors [size,size] that sum to 1; `size` is odd.
"""

import math
from typing import Literal

import torch
from torch import Tensor

GaussianShape = Literal["gaussian", "generalized", "plateau"]


def gaussian_kernel(
    size: int,
    sigma_x: float,
    sigma_y: float,
    theta: float,
    shape: GaussianShape = "gaussian",
    beta: float = 1.0,
) -> Tensor:
    """Make a bivariate kernel, rotated by `theta`.

    With d2 as the squared Mahalanobis distance of a tap from the centre, "gaussian" is
    exp(-d2 / 2), "generalized" is exp(-d2^beta / 2), and "plateau" is 1 / (1 + d2^beta).

    Args:
        size: odd number of taps.
        sigma_x, sigma_y: standard deviations along the kernel's axes, in pixels, above 0.
        theta: rotation in radians.
        shape: shape of the kernel.
        beta: exponent for "generalized" and "plateau", above 0.
    """
    x, y = _grid(size)
    along = (x * math.cos(theta) + y * math.sin(theta)) / sigma_x
    across = (y * math.cos(theta) - x * math.sin(theta)) / sigma_y
    d2 = along**2 + across**2
    if shape == "gaussian":
        kernel = torch.exp(-d2 / 2)
    elif shape == "generalized":
        kernel = torch.exp(-(d2**beta) / 2)
    else:
        kernel = 1 / (1 + d2**beta)
    return (kernel / kernel.sum()).float()


def sinc_kernel(size: int, cutoff: float) -> Tensor:
    """Make a circular sinc kernel, a low-pass filter that causes ringing.

    The tap at distance r from the centre is cutoff J1(cutoff r) / (2 pi r), before normalisation.

    Args:
        size: odd number of taps.
        cutoff: cutoff frequency omega_c in radians per pixel, above 0 and at most pi.
    """
    x, y = _grid(size)
    r = torch.sqrt(x**2 + y**2)
    kernel = cutoff * torch.special.bessel_j1(cutoff * r) / (2 * math.pi * r)
    kernel[size // 2, size // 2] = cutoff**2 / (4 * math.pi)
    return (kernel / kernel.sum()).float()


def _grid(size: int) -> tuple[Tensor, Tensor]:
    """Return x and y of each tap relative to the centre, float64 [size,size]."""
    axis = torch.arange(size, dtype=torch.float64) - size // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return x, y
