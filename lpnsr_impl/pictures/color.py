"""Colour correction of a super-resolved image against its low-resolution reference."""

import torch
import torch.nn.functional as F
from torch import Tensor

_RADII = (1, 2, 4, 8, 16)
REACH = sum(_RADII)
"""Radius of the wavelet fix in pixels: a pixel of the result depends on the input up to this
distance."""

_STRIP = 512  # number of rows that the wavelet fix processes at once, to save memory


def wavelet_color_fix(sr: Tensor, reference: Tensor) -> Tensor:
    """Replace the low frequencies of `sr`, i.e. colours and tones, by those of `reference`.

    The wavelet transform consists of five a-trous levels with a dilated 3x3 binomial kernel. It is
    linear, so high(sr) + low(reference) is computed as sr + low(reference - sr).

    Args:
        sr: [B,3,H,W] in [0,1].
        reference: image of the same shape and range, e.g. the LR image after bicubic x4.

    Returns:
        [B,3,H,W], clamped to [0,1].

    Raises:
        ValueError: the shapes differ.
    """
    _check_shapes(sr, reference)
    result = torch.empty_like(sr)
    height = sr.shape[2]
    for top in range(0, height, _STRIP):
        bottom = min(top + _STRIP, height)
        first = max(top - REACH, 0)
        around = slice(first, min(bottom + REACH, height))
        low = _low_band(reference[:, :, around] - sr[:, :, around])
        low = low[:, :, top - first : bottom - first]
        torch.add(sr[:, :, top:bottom], low, out=result[:, :, top:bottom])
    return result.clamp_(0, 1)


def adain_color_fix(sr: Tensor, reference: Tensor) -> Tensor:
    """Give each channel of `sr` the mean and standard deviation of the same channel of `reference`.

    Arguments, result and errors as for `wavelet_color_fix`.
    """
    _check_shapes(sr, reference)
    dims = (-2, -1)
    sr_std = sr.std(dims, correction=0, keepdim=True).clamp_min(1e-5)
    gain = reference.std(dims, correction=0, keepdim=True) / sr_std
    return ((sr - sr.mean(dims, keepdim=True)) * gain + reference.mean(dims, keepdim=True)).clamp(
        0, 1
    )


def _low_band(x: Tensor) -> Tensor:
    channels = x.shape[1]
    binomial = torch.tensor([0.25, 0.5, 0.25], dtype=x.dtype, device=x.device)
    kernel = torch.outer(binomial, binomial).expand(channels, 1, 3, 3)
    for radius in _RADII:
        x = F.conv2d(
            F.pad(x, [radius] * 4, mode="replicate"), kernel, dilation=radius, groups=channels
        )
    return x


def _check_shapes(sr: Tensor, reference: Tensor) -> None:
    if sr.ndim != 4 or sr.shape != reference.shape:
        raise ValueError(
            f"sr is {tuple(sr.shape)} and reference {tuple(reference.shape)}, expected the same "
            "shape [B,3,H,W]."
        )


COLOR_FIXES = {"none": None, "wavelet": (wavelet_color_fix, REACH), "adain": (adain_color_fix, 0)}
"""Colour fixes by name: the function fix(sr, reference) -> image and its radius in pixels, see
`REACH`."""
