"""Target sizes, and the upscaling passes that reach them."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpnsr_impl.pictures.target import (
    Pass,
    Target,
    check_memory,
    describe,
    pass_work,
    plan_passes,
)

SIDES = st.integers(1, 5000)
FACTORS = st.floats(1, 16)


def never_enlarges_beyond_x4(each: Pass) -> bool:
    """Return whether the result of a pass is at most as large as its networks' x4 output."""
    return all(size <= x4 for size, x4 in zip(each.size, each.x4, strict=True))


@settings(deadline=None)
@given(SIDES, SIDES, FACTORS)
def test_any_factor_is_reached_from_any_size(h: int, w: int, factor: float) -> None:
    passes = plan_passes(h, w, Target(factor))
    assert passes[0].lr == (h, w)
    for side, wanted in zip(passes[-1].size, (h * factor, w * factor), strict=True):
        assert abs(side - wanted) <= 0.5
    for each in passes:
        assert never_enlarges_beyond_x4(each)
    for before, after in itertools.pairwise(passes):
        assert before.size == after.lr


@settings(deadline=None)
@given(SIDES, SIDES, st.data())
def test_the_longest_side_is_met_exactly_and_the_shape_kept(
    h: int, w: int, data: st.DataObject
) -> None:
    side = data.draw(st.integers(max(h, w), 16 * max(h, w)))
    passes = plan_passes(h, w, Target(longest_side=side))
    height, width = passes[-1].size
    assert max(height, width) == side
    assert abs(height - h * side / max(h, w)) <= 0.5
    assert abs(width - w * side / max(h, w)) <= 0.5
    assert all(map(never_enlarges_beyond_x4, passes))


@settings(deadline=None)
@given(SIDES, SIDES, FACTORS)
def test_no_pass_is_wasted(h: int, w: int, factor: float) -> None:
    """Factors up to 4 take one pass. A second pass starts at the smallest size that suffices."""
    passes = plan_passes(h, w, Target(factor))
    assert len(passes) == (1 if factor <= 4 else len(passes))
    for each in passes[1:]:
        assert all(x4 - size < 4 for x4, size in zip(each.x4, each.size, strict=True))
        assert each.x4 != passes[0].x4


@settings(deadline=None)
@given(SIDES, SIDES)
def test_without_wishes_it_is_one_pass_of_x4(h: int, w: int) -> None:
    assert Target().is_plain
    assert plan_passes(h, w, Target()) == [Pass((h, w), (4 * h, 4 * w))]
    assert plan_passes(h, w, Target(longest_side=4 * max(h, w))) == plan_passes(h, w, Target())


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (Target(), "512x384 to 2048x1536"),
        (Target(1), "512x384 to 512x384 in 1 pass: x4 to 2048x1536, down to 512x384"),
        (Target(2), "512x384 to 1024x768 in 1 pass: x4 to 2048x1536, down to 1024x768"),
        (
            Target(longest_side=3840),
            "512x384 to 3840x2880 in 2 passes: x4 to 2048x1536, down to 960x720, x4 to 3840x2880",
        ),
        (
            Target(longest_side=3333),
            "512x384 to 3333x2500 in 2 passes: x4 to 2048x1536, down to 834x625, x4 to 3336x2500, "
            "down to 3333x2500",
        ),
        (Target(16), "512x384 to 8192x6144 in 2 passes: x4 to 2048x1536, x4 to 8192x6144"),
    ],
)
def test_the_plan_is_told(target: Target, text: str) -> None:
    assert describe(plan_passes(384, 512, target)) == text


@pytest.mark.parametrize("factor", [0.99, 16.01, 0, -4, math.nan, math.inf])
def test_factors_that_no_passes_reach_are_refused(factor: float) -> None:
    with pytest.raises(ValueError, match=rf"^factor is {factor:g}, expected 1 to 16"):
        Target(factor)


@pytest.mark.parametrize(
    ("side", "message"),
    [
        (1023, "longest_side is 1023, but the picture is 768x1024: expected 1024 to 16384.*resize"),
        (16385, "longest_side is 16385, but .* expected 1024 to 16384.*upscale the result again"),
    ],
)
def test_sides_that_no_passes_reach_are_refused(side: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_passes(1024, 768, Target(longest_side=side))
    with pytest.raises(ValueError, match="longest_side is -1, expected a positive number"):
        Target(longest_side=-1)


def test_a_second_pass_counts_by_its_pixels() -> None:
    assert pass_work(plan_passes(100, 100, Target(2))) == [1]
    assert pass_work(plan_passes(100, 100, Target(8))) == [1, 4]
    assert pass_work(plan_passes(100, 100, Target(16))) == [1, 16]


def test_what_does_not_fit_into_memory_is_refused() -> None:
    """`check_memory` refuses a clip if main memory does not suffice for all results and latents,
    and for processing one image."""
    x1, x2, x4, x8 = (plan_passes(256, 256, Target(factor)) for factor in (1, 2, 4, 8))
    lr, picture = 256 * 256 * 3 * 4, 1024 * 1024 * 3 * 4
    for passes, needed, batch, channels, has_mask in (
        (x4, 6 * picture + lr, 1, 3, False),
        (x4, 105 * picture + 100 * lr, 100, 3, False),
        (x2, 5 * picture + 500 * lr, 100, 3, False),
        (x1, 5 * picture + 200 * lr, 100, 3, False),
        (x4, 205 * picture + 100 * lr, 100, 3, True),
        (x4, 5 * picture + 1024 * 1024 * 4 * 4 + lr, 1, 4, False),
        (x8, 4 * (5 + 10) * picture + 80 * lr, 10, 3, False),
    ):
        check_memory(passes, needed, batch, channels, has_mask)
        with pytest.raises(MemoryError):
            check_memory(passes, needed - 1, batch, channels, has_mask)
    with pytest.raises(MemoryError, match=r"100 images of 1024x1024 need 1\.3 GB .* 0\.6 GB are"):
        check_memory(x4, 52 * picture, 100)
