"""Scale factors other than 4: one or two x4 passes, each followed by downscaling.

One pass suffices for factors up to 4. If there are two, the result of the first one is downscaled
to a quarter of the final size, the smallest possible input of the second one. This saves time: x6
takes 3.25 times as long as x4, instead of 17 times without downscaling between the passes. On four
images with the bundled models, it cost about 0.2 dB of PSNR (22.5 instead of 22.7 dB).
"""

import math
from dataclasses import dataclass

from ..config import SCALE

LARGEST_FACTOR = SCALE * SCALE
"""Largest scale factor: that of two x4 passes."""

WORKING_PICTURES = 5
"""Memory needed to decode and post-process one image, in addition to the memory of its result.

The unit is the memory of an RGB image in fp32 that is 4 times as high and wide as the LR image. The
value was measured.
"""

_VALUE_BYTES = 4


@dataclass(frozen=True)
class Target:
    """Requested size of results: a scale factor or a longest side.

    Attributes:
        factor: scale factor of both sides, 1 to 16. 1 restores an image without enlarging it.
        longest_side: longest side of the result in pixels. If it is not 0, `factor` is ignored.

    Raises:
        ValueError: `factor` or `longest_side` is out of range.
    """

    factor: float = SCALE
    longest_side: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.factor <= LARGEST_FACTOR:
            raise ValueError(f"factor is {self.factor:g}, expected 1 to {LARGEST_FACTOR}.")
        if self.longest_side < 0:
            raise ValueError(
                f"longest_side is {self.longest_side}, expected a positive number of pixels, or 0 "
                "to use the scale factor instead."
            )

    @property
    def is_plain(self) -> bool:
        """Whether the requested size is a scale factor of 4."""
        return self.longest_side == 0 and self.factor == SCALE

    def __str__(self) -> str:
        if self.longest_side:
            return f"longest side {self.longest_side}"
        return f"x{self.factor:g}"

    def size(self, h: int, w: int) -> tuple[int, int]:
        """Return (H, W) of the result for an image of h x w pixels. Halves are rounded up.

        Raises:
            ValueError: the longest side of the image is larger than `longest_side`, or smaller than
                a sixteenth of it.
        """
        if not self.longest_side:
            return math.floor(h * self.factor + 0.5), math.floor(w * self.factor + 0.5)
        side, longest = self.longest_side, max(h, w)
        if not longest <= side <= LARGEST_FACTOR * longest:
            raise ValueError(
                f"longest_side is {side}, but the picture is {w}x{h}: expected "
                f"{longest} to {LARGEST_FACTOR * longest}, which is x1 to x{LARGEST_FACTOR}. "
                + (
                    "To make the picture smaller, use a plain resize."
                    if side < longest
                    else "To make it larger, upscale the result again."
                )
            )
        return (2 * h * side + longest) // (2 * longest), (2 * w * side + longest) // (2 * longest)


@dataclass(frozen=True)
class Pass:
    """Sizes of one x4 pass: `lr` is the (h, w) of its input, and `size` the (H, W) to which its
    output is downscaled."""

    lr: tuple[int, int]
    size: tuple[int, int]

    @property
    def x4(self) -> tuple[int, int]:
        """(H, W) of the result before downscaling."""
        return SCALE * self.lr[0], SCALE * self.lr[1]


def plan_passes(h: int, w: int, target: Target, batch: int = 1) -> list[Pass]:
    """Plan one pass for scale factors up to 4, or two passes for factors up to 16.

    If there are several images, the final height and width are rounded up to even numbers, since
    video encoders do not accept odd ones.

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
    """Describe passes, e.g. "512x384 to 1024x768 in 1 pass: x4 to 2048x1536, down to 1024x768".

    For a single pass without downscaling, it is "512x384 to 2048x1536".
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
    """Return the cost of each pass relative to the first pass."""
    h, w = passes[0].lr
    return [each.lr[0] * each.lr[1] / (h * w) for each in passes]


def check_memory(
    passes: list[Pass], free: int, batch: int = 1, channels: int = 3, has_mask: bool = False
) -> None:
    """Check that the pass that needs the most memory fits into `free` bytes of main memory.

    The estimate includes the latents and results of all images, their pre-upsampled images if there
    is a mask, and the intermediate images for one image at a time. It does not include the
    networks and their activations, which depend on the tile size.

    Raises:
        MemoryError: the pass does not fit.
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
