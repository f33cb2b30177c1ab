"""Pictures that go on periodically: seamless textures, 360-degree panoramas.

Such a picture is a tile that overlaps itself. It is continued at the bottom and right by a strip of
its other side before a network sees it, and what the network makes of the two copies of that strip
is blended as neighbouring tiles are, at every call. So everything between the calls is periodic.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import SCALE, WRAP_OVERLAP, Wrap, wraps
from .images import SMALLEST_MODEL_INPUT, reflect_pad, resize

_BICUBIC_REACH = 3
"""Pixels, of the smaller picture, that bicubic resampling sees beyond an edge, and one more."""


def continued(x: Tensor, h: int, w: int, wrap: Wrap, block: int = 1) -> Tensor:
    """Extend to [B,C,h,w] at the bottom and right: periodically where it wraps, else mirrored.

    Args:
        x: [B,C,*,*].
        h, w: larger or equal sizes.
        wrap: axes.
        block: see `reflect_pad`.

    Raises:
        ValueError: h or w is smaller than it is already.
    """
    for dim, size in _axes(wrap, h, w):
        x = _picked(x, dim, 0, max(size, x.shape[dim]))
    return reflect_pad(x, h, w, block)


def agreed(x: Tensor, h: int, w: int, wrap: Wrap) -> Tensor:
    """Make what was continued periodic again: copies fade into each other, away from the edges.

    Args:
        x: [B,C,H,W], a network's result; in the axes of `wrap` it is of a continued picture.
        h, w: of the picture, in pixels of `x`.
        wrap: axes.

    Returns:
        [B,C,H,W], of period h in y and w in x where they wrap.
    """
    for dim, period in _axes(wrap, h, w):
        size = x.shape[dim]
        weights = _weights(size, period).to(x)
        faded = x * weights.view([-1 if d == dim else 1 for d in range(x.ndim)])
        shape = [period if d == dim else n for d, n in enumerate(x.shape)]
        place = torch.arange(size, device=x.device) % period
        x = x.new_zeros(shape).index_add_(dim, place, faded).index_select(dim, place)
    return x


def is_periodic(x: Tensor, h: int, w: int, wrap: Wrap) -> bool:
    """Whether [B,C,H,W] has exactly the period h in y and w in x where they wrap."""
    return all(
        torch.equal(
            x.narrow(dim, period, x.shape[dim] - period),
            x.narrow(dim, 0, x.shape[dim] - period),
        )
        for dim, period in _axes(wrap, h, w)
    )


def _weights(size: int, period: int) -> Tensor:
    """Smooth and highest in the middle; those of positions that are one period apart sum to 1."""
    ramp = min(size - period, period)
    from_middle = (torch.arange(size, dtype=torch.float64) + 0.5 - size / 2).abs()
    rise = ((period + ramp) / 2 - from_middle) / ramp
    return torch.sin(rise.clamp(0, 1) * math.pi / 2) ** 2


def surrounded(x: Tensor, margin: int, wrap: Wrap) -> Tensor:
    """`margin` pixels of the other side at both edges of each axis of `wrap`."""
    for dim, size in _axes(wrap, *x.shape[2:]):
        x = _picked(x, dim, -margin, size + margin)
    return x


def inside(x: Tensor, margin: int, wrap: Wrap) -> Tensor:
    """Cut off what `surrounded` has put around."""
    for dim, size in _axes(wrap, *x.shape[2:]):
        x = x.narrow(dim, margin, size - 2 * margin)
    return x


def upsampled(lr: Tensor, wrap: Wrap) -> Tensor:
    """Bicubic x4 of a picture that wraps. [B,C,h,w] -> [B,C,4h,4w]"""
    return resampled(lr, SCALE * lr.shape[2], SCALE * lr.shape[3], wrap)


def resampled(x: Tensor, h: int, w: int, wrap: Wrap) -> Tensor:
    """A picture that wraps in another size, bicubic: with antialiasing where it gets smaller.

    [B,C,H,W] -> [B,C,h,w]
    """
    if tuple(x.shape[2:]) == (h, w):
        return x
    smaller = h < x.shape[2] or w < x.shape[3]
    size, margins = [h, w], [0, 0]
    for dim, n in _axes(wrap, h, w):
        old = x.shape[dim]
        unit = old // math.gcd(old, n)  # pixels that become a whole number of pixels
        margin = -(-_BICUBIC_REACH * max(old, n) // (n * unit)) * unit
        x = _picked(x, dim, -margin, old + margin)
        margins[dim - 2] = margin * n // old
        size[dim - 2] += 2 * margins[dim - 2]
    if smaller:
        x = resize(x, *size)
    else:
        x = F.interpolate(x, size=size, mode="bicubic", align_corners=False)
    return x[:, :, margins[0] : margins[0] + h, margins[1] : margins[1] + w]


def for_model(lr: Tensor, wrap: Wrap) -> Tensor:
    """What an upscale model sees of a picture: it is continued where it wraps, or is too small.

    [B,3,h,w] -> [B,3,H,W]
    """
    sizes = zip(lr.shape[2:], wraps(wrap), strict=True)
    h, w = (max(n + on * WRAP_OVERLAP, SMALLEST_MODEL_INPUT) for n, on in sizes)
    return continued(lr, h, w, wrap)


def from_model(y: Tensor, scale: int, h: int, w: int, wrap: Wrap) -> Tensor:
    """The picture exactly x4, from what an upscale model made of `for_model`.

    Args:
        y: [B,3,scale H,scale W].
        scale: of the model.
        h, w: of the LR picture.
        wrap: axes in which it goes on periodically.

    Returns:
        [B,3,4h,4w].
    """
    y_wraps, x_wraps = wraps(wrap)
    # Resampling sees beyond an edge: what is mirrored goes before, what wraps after.
    y = y[:, :, : None if y_wraps else scale * h, : None if x_wraps else scale * w]
    y = resize(y, y.shape[2] * SCALE // scale, y.shape[3] * SCALE // scale)
    return agreed(y, SCALE * h, SCALE * w, wrap)[:, :, : SCALE * h, : SCALE * w]


def _axes(wrap: Wrap, h: int, w: int) -> Iterator[tuple[int, int]]:
    """Dimension and size of each axis of `wrap`."""
    return ((dim, n) for dim, n, on in zip((2, 3), (h, w), wraps(wrap), strict=True) if on)


def _picked(x: Tensor, dim: int, first: int, end: int) -> Tensor:
    """Positions first to end - 1 along an axis that goes on periodically."""
    return x.index_select(dim, torch.arange(first, end, device=x.device) % x.shape[dim])
