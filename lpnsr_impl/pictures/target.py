"""Sizes other than x4: passes of x4, each downscaled to where the next one begins, or to the end.

Between two passes the picture becomes as small as the second may begin with, a quarter of what is
wanted. x6 takes 3.25 times as long as x4 so, and 17 times where only the end is downscaled; four
pictures lost 0.3 dB of PSNR by it (22.5 to 22.7 dB) with the bundled models.
"""

import math
from dataclasses import dataclass

from ..config import SCALE

LARGEST_FACTOR = SCALE * SCALE
"""What two passes reach."""

WORKING_PICTURES = 5
"""Images in fp32 that decoding and finishing one image needs beside it (measured)."""

_VALUE_BYTES = 4


@dataclass(frozen=True)
class Target:
    """The size wanted.

    Attributes:
        factor: of both sides, 1 to 16. 1 cleans a picture up and leaves its size.
        longest_side: in pixels, in place of the factor; 0 for none.

    Raises:
        ValueError: one is out of range.
    """

    factor: float = SCALE
    longest_side: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.factor <= LARGEST_FACTOR:
            raise ValueError(f"factor is {self.factor:g}, expected 1 to {LARGEST_FACTOR}.")
        if self.longest_side < 0:
            raise ValueError(
                f"longest_side is {self.longest_side}, expected pixels, or 0 to go by the factor."
            )

    @property
    def is_plain(self) -> bool:
        """Whether it is x4, for pictures of any size."""
        return self.longest_side == 0 and self.factor == SCALE

    def __str__(self) -> str:
        if self.longest_side:
            return f"longest side {self.longest_side}"
        return f"x{self.factor:g}"

    def size(self, h: int, w: int) -> tuple[int, int]:
        """(H, W) of the result of an h x w picture; halves are rounded up.

        Raises:
            ValueError: the picture is larger than its result, or too small to reach it.
        """
        if not self.longest_side:
            return math.floor(h * self.factor + 0.5), math.floor(w * self.factor + 0.5)
        side, longest = self.longest_side, max(h, w)
        if not longest <= side <= LARGEST_FACTOR * longest:
            raise ValueError(
                f"longest_side is {side}, but the picture is {w}x{h}: expected "
                f"{longest} to {LARGEST_FACTOR * longest}, once to {LARGEST_FACTOR} times as much. "
                + (
                    "To make it smaller needs no upscaling: use a plain resize."
                    if side < longest
                    else "Upscale the result again to go on."
                )
            )
        return (2 * h * side + longest) // (2 * longest), (2 * w * side + longest) // (2 * longest)


@dataclass(frozen=True)
class Pass:
    """One pass of x4: (h, w) of what it gets, and of what its result is downscaled to."""

    lr: tuple[int, int]
    size: tuple[int, int]

    @property
    def x4(self) -> tuple[int, int]:
        """(H, W) of its result."""
        return SCALE * self.lr[0], SCALE * self.lr[1]


def plan_passes(h: int, w: int, target: Target, batch: int = 1) -> list[Pass]:
    """One pass up to x4, two up to x16. The last one ends in the size of the target.

    Sides of several images are even, since video encoders refuse odd ones.

    Raises:
        ValueError: see `Target.size`.
    """
    height, width = target.size(h, w)
    if batch > 1:
        height, width = height + height % 2, width + width % 2
    if height <= SCALE * h and width <= SCALE * w:
        return [Pass((h, w), (height, width))]
    between = (-(-height // SCALE), -(-width // SCALE))
    return [Pass((h, w), between), Pass(between, (height, width))]


def describe(passes: list[Pass]) -> str:
    """The plan in words, e.g. "512x384 to 1024x768 in 1 pass: x4 to 2048x1536, down to 1024x768".

    Plain x4 is "512x384 to 2048x1536".
    """
    whole = f"{_size(passes[0].lr)} to {_size(passes[-1].size)}"
    if passes[0].x4 == passes[-1].size:
        return whole
    count = f"{len(passes)} pass" + ("es" if len(passes) > 1 else "")
    parts: list[str] = []
    for each in passes:
        parts.append(f"x{SCALE} to {_size(each.x4)}")
        if each.size != each.x4:
            parts.append(f"down to {_size(each.size)}")
    return f"{whole} in {count}: {', '.join(parts)}"


def pass_work(passes: list[Pass]) -> list[float]:
    """Work of each pass, relative to the first."""
    h, w = passes[0].lr
    return [each.lr[0] * each.lr[1] / (h * w) for each in passes]


def check_memory(
    passes: list[Pass], free: int, batch: int = 1, channels: int = 3, has_mask: bool = False
) -> None:
    """Check that the largest pass fits into the free bytes of main memory.

    It holds the latents and the results of all images, with a mask their starts, too, and works on
    one image at a time. Networks come on top, in tiles.

    Raises:
        MemoryError: it does not fit.
    """
    needed = 0
    for i, each in enumerate(passes):
        lr, x4 = 3 * math.prod(each.lr), 3 * math.prod(each.x4)
        between = batch * lr if i else 0  # the result of the first pass
        results = batch * (lr + channels * math.prod(each.size) + has_mask * x4)
        values = between + max(2 * batch * lr, results) + WORKING_PICTURES * x4
        needed = max(needed, _VALUE_BYTES * values)
    if needed > free:
        several = f"{batch} images of " if batch > 1 else ""
        raise MemoryError(
            f"{describe(passes)}: {several}{_size(passes[-1].size)} need {needed / 2**30:.1f} GB "
            f"of memory for pixels alone, and {free / 2**30:.1f} GB are free. Choose a smaller "
            "size or fewer images at a time, or close other programs."
        )


def _size(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"
