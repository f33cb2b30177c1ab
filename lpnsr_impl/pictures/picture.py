"""Batches of images that may be transparent or periodic: the input of the engine."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from torch import Tensor

from ..config import Wrap
from .edges import resample

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
