"""Pictures as all rooms know them: colours, and what can be seen through them."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Picture:
    """rgb: float32 [B,3,H,W] in [0,1]; alpha: [B,1,H,W] in [0,1], or None. Colours are not
    multiplied by it."""

    rgb: Tensor
    alpha: Tensor | None = None

    @property
    def size(self) -> tuple[int, int, int]:
        """B, H, W"""
        return self.rgb.shape[0], self.rgb.shape[2], self.rgb.shape[3]

    @property
    def channels(self) -> int:
        """3, or 4 with alpha."""
        return 3 if self.alpha is None else 4

    def split(self, size: int) -> "list[Picture]":
        """Pictures of at most `size` each."""
        alphas = [None] * len(self.rgb) if self.alpha is None else self.alpha.split(size)
        return [Picture(rgb, alpha) for rgb, alpha in zip(self.rgb.split(size), alphas)]  # noqa: B905
