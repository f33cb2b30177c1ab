"""Resampling and padding of [B,C,h,w] tensors, before and after the networks."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import SCALE

SMALLEST_MODEL_INPUT = 64
"""Upscale models see pictures mirrored to at least this size: windows need room."""


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


def reflect_pad(x: Tensor, h: int, w: int, block: int = 1) -> Tensor:
    """Extend to [B,C,h,w] by mirroring at the bottom and right edge.

    Unlike `torch.nn.functional.pad` it mirrors again and again, so it works from 1x1 up.

    Args:
        x: [B,C,*,*].
        h, w: larger or equal sizes.
        block: pixels of one LR pixel. With 4, a x4 picture is mirrored just as its LR picture is
            with 1: about the middle of the last LR pixel.

    Raises:
        ValueError: h or w is smaller than it is already.
    """
    if h < x.shape[2] or w < x.shape[3]:
        raise ValueError(
            f"Cannot pad height {x.shape[2]} and width {x.shape[3]} to {h} and {w}; "
            "expected larger sizes."
        )
    if (h, w) == tuple(x.shape[2:]):
        return x
    rows = _mirrored(x.shape[2], h, block, x.device)
    columns = _mirrored(x.shape[3], w, block, x.device)
    return x[:, :, rows][:, :, :, columns]


def fit_rgb_factors(latent: Tensor, rgb: Tensor) -> tuple[Tensor, Tensor]:
    """Least-squares colours of a latent: rgb is about latent x factors + bias.

    A latent has the LR picture's size, so its own picture tells what colours it stands for. For
    previews.

    Args:
        latent: [B,C,h,w].
        rgb: [B,3,h,w].

    Returns:
        factors [C,3] and bias [3], float32 on the CPU.
    """
    x = latent.float().cpu().movedim(1, 3).reshape(-1, latent.shape[1])
    y = rgb.float().cpu().movedim(1, 3).reshape(-1, 3)
    with_one = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    solution = torch.linalg.lstsq(with_one, y, driver="gelsd").solution  # of any rank
    return solution[:-1], solution[-1]


def padded_size(h: int, w: int, multiple: int) -> tuple[int, int]:
    """The next multiples of `multiple` from h and w up."""
    return -(-h // multiple) * multiple, -(-w // multiple) * multiple


def _mirrored(size: int, target: int, block: int, device: torch.device) -> Tensor:
    """Source index of each of `target` positions: 0 1 2 1 0 1 ... for size 3 and block 1."""
    n = size // block
    index = torch.arange(target // block, device=device) % max(2 * (n - 1), 1)
    backwards = index >= n
    index = torch.where(backwards, 2 * (n - 1) - index, index)
    within = torch.arange(block, device=device).expand(len(index), block)
    within = torch.where(backwards[:, None], block - 1 - within, within)
    return (index[:, None] * block + within).flatten()


def fill_transparent(rgb: Tensor, alpha: Tensor) -> Tensor:
    """Give pixels that can't be seen the colours around them, so that networks make no halos.

    Files may have any colour there, often black or white, and it would bleed into visible edges.

    Args:
        rgb: [B,3,h,w], not multiplied by alpha.
        alpha: [B,1,h,w] in [0,1].

    Returns:
        [B,3,h,w], unchanged where alpha is above 0.
    """
    return torch.where(alpha > 0, rgb, _spread(rgb * alpha, alpha))


def _spread(weighted: Tensor, weights: Tensor) -> Tensor:
    """weighted / weights; where a weight is 0, that of the next coarser level that has one."""
    own = weighted / weights.clamp_min(1e-8)
    h, w = weights.shape[2:]
    if h * w == 1 or bool((weights > 0).all()):
        return own
    coarse = _spread(*(F.avg_pool2d(x, 2, ceil_mode=True) for x in (weighted, weights)))
    smooth = F.interpolate(coarse, size=(h, w), mode="bilinear", align_corners=False)
    return torch.where(weights > 0, own, smooth)
