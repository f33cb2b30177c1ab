"""Batches of images that may be transparent or periodic: the input of the engine."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch.nn.functional as F
from torch import Tensor

from ..config import SCALE, Wrap
from .edges import resample, surround

P = TypeVar("P", bound="Picture")


@dataclass(frozen=True)
class Picture:
    """A batch of images of one size.

    Attributes:
        rgb: float32 [B,3,H,W] in [0,1], not multiplied by alpha.
        alpha: [B,1,H,W] in [0,1], or None for opaque images.
        wrap: axes along which the images are periodic.
    """

    rgb: Tensor
    alpha: Tensor | None = None
    wrap: Wrap = "none"

    @property
    def size(self) -> tuple[int, int, int]:
        """Number of images, height and width."""
        return self.rgb.shape[0], self.rgb.shape[2], self.rgb.shape[3]

    @property
    def channels(self) -> int:
        """Number of channels: 3, or 4 with alpha."""
        return 3 if self.alpha is None else 4

    def __getitem__(self: P, images: slice) -> P:
        """Select images of the batch."""
        alpha = None if self.alpha is None else self.alpha[images]
        return replace(self, rgb=self.rgb[images], alpha=alpha)

    def split(self: P, size: int) -> Iterator[P]:
        """Split the batch into batches of at most `size` images."""
        for first in range(0, len(self.rgb), size):
            yield self[first : first + size]

    def resize(self: P, h: int, w: int) -> P:
        """Resize to height h and width w with `resample`. RGB may overshoot; alpha is clamped."""
        alpha = None if self.alpha is None else resample(self.alpha, h, w, self.wrap).clamp(0, 1)
        return replace(self, rgb=resample(self.rgb, h, w, self.wrap), alpha=alpha)


def upsample_bicubic(lr: Picture) -> Tensor:
    """Return y0-hat of PreSet-A: colours upsampled by bicubic interpolation, [B,3,4h,4w].

    Values may overshoot at edges.
    """
    _, h, w = lr.size
    return lr.resize(SCALE * h, SCALE * w).rgb


def upscale_alpha(lr: Picture, start: Callable[[Picture], Tensor] | None) -> Tensor | None:
    """Upscale alpha x4 with an SR network, as a grey image, or by bicubic interpolation.

    The SR network makes alpha as sharp as the colours. Values are clamped to the range of the 3x3
    LR pixels around them, so that transparent and opaque areas remain exactly 0 and 1.

    Args:
        lr: images [B,*,h,w].
        start: upscales images to rgb [B,3,4h,4w] in [0,1]; None for bicubic interpolation.

    Returns:
        [B,1,4h,4w] in [0,1], or None for opaque images.
    """
    if lr.alpha is None or start is None:
        return lr.resize(SCALE * lr.size[1], SCALE * lr.size[2]).alpha
    alpha = start(Picture(lr.alpha.expand(-1, 3, -1, -1), wrap=lr.wrap)).mean(dim=1, keepdim=True)
    pool = partial(F.max_pool2d, kernel_size=3, stride=1, padding=1)
    low, high = (sign * surround(pool, sign * lr.alpha, reach=1, wrap=lr.wrap) for sign in (-1, 1))
    low, high = (x.repeat_interleave(SCALE, 2).repeat_interleave(SCALE, 3) for x in (low, high))
    return alpha.clamp(low, high)
