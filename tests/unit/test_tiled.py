"""Tiles cover an image with its margin, and blending them leaves no seams."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from lpnsr_impl.engine.tile_plan import Axis, TilePlan, plan_axis

SIZES = [(64, 64, 16), (200, 64, 24), (1000, 32, 8), (37, 32, 16), (1, 32, 8), (5, 64, 32)]


def plan(h: int, w: int, tile: int, overlap: int, batch: int = 1, **how: object) -> TilePlan:
    rows, columns = (plan_axis(size, tile, overlap, **how) for size in (h, w))
    return TilePlan(rows, columns, batch)


@pytest.mark.parametrize(("size", "tile", "overlap"), SIZES)
@pytest.mark.parametrize("margin", [0, 4])
def test_tiles_cover_the_image_and_its_margin(
    size: int, tile: int, overlap: int, margin: int
) -> None:
    axis = plan_axis(size, tile, overlap, multiple=8, min_tile=32, margin=margin)
    assert axis.tile % 8 == 0
    assert axis.starts[0] <= -margin
    assert axis.starts[-1] + axis.tile >= size + margin
    assert abs((axis.starts[-1] + axis.tile - size) + axis.starts[0]) < 8, "tiles are not centred"
    shared = [a + axis.tile - b for a, b in pairwise(axis.starts)]
    assert all(overlap <= s for s in shared)
    assert all((b - a) % 8 == 0 for a, b in pairwise(axis.starts))
    if len(axis.starts) > 1:
        assert tile + (len(axis.starts) - 2) * (tile - overlap) < size, "there is a needless tile"


@pytest.mark.parametrize(
    ("size", "tile", "expected"),
    [
        (512, 256, (192, (0, 160, 320))),  # 3 tiles are needed, and 192 pixels each suffice
        (1024, 256, (232, (0, 192, 392, 592, 792))),
        (72, 64, (64, (0, 8))),
        (64, 64, (64, (0,))),
    ],
)
def test_tiles_are_no_larger_than_so_many_need_to_be(
    size: int, tile: int, expected: tuple[int, tuple[int, ...]]
) -> None:
    axis = plan_axis(size, tile, 32, multiple=8, min_tile=64)
    assert (axis.tile, axis.starts) == expected


def test_tiles_overlap_by_half_at_most() -> None:
    """The overlap is limited to half a tile. Without this limit, tiles of 256 with an overlap of
    256 gave 97 tiles along an axis of 1024."""
    assert plan_axis(1024, 256, 256, multiple=8) == plan_axis(1024, 256, 128, multiple=8)
    assert len(plan_axis(1024, 256, 256, multiple=8).starts) == 7
    assert len(plan_axis(128, 32, 32, multiple=8, min_tile=32).starts) == 7


@pytest.mark.parametrize("arguments", [(0, 64, 8), (64, 0, 8), (64, 64, -1)])
def test_plans_that_cannot_be_are_refused(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="expected 1 or more, the last two 0 or more"):
        plan_axis(*arguments)


@pytest.mark.parametrize("wraps", [False, True])
@pytest.mark.parametrize(("h", "w", "tile", "overlap"), [
    (64, 96, 64, 16), (96, 160, 64, 16), (37, 200, 32, 24), (5, 2, 32, 8), (1, 1, 32, 0),
])  # fmt: skip
@pytest.mark.parametrize(("input_scale", "output_scale"), [(1, 1), (4, 1), (1, 4)])
def test_tiling_the_identity_changes_nothing(
    h: int, w: int, tile: int, overlap: int, wraps: bool, input_scale: int, output_scale: int
) -> None:
    x = torch.randn(2, 3, h * input_scale, w * input_scale)

    def resample(x: Tensor) -> Tensor:
        x = torch.nn.functional.avg_pool2d(x, input_scale)
        return x.repeat_interleave(output_scale, 2).repeat_interleave(output_scale, 3)

    margin = 0 if wraps else 4
    tiles = plan(h, w, tile, overlap, margin=margin, multiple=8, min_tile=32, wraps=wraps)
    tiled = tiles.apply(resample, [x], input_scale=input_scale, output_scale=output_scale)
    torch.testing.assert_close(tiled, resample(x), atol=1e-5, rtol=0)


def test_beyond_an_edge_its_pixels_repeat_or_the_other_side_follows() -> None:
    edge, wrapped = Axis(3, 6, (-2,)), Axis(3, 6, (-2,), wraps=True)
    assert edge.sources().tolist() == [[0, 0, 0, 1, 2, 2]]
    assert edge.sources(2)[0, :6].tolist() == [0, 0, 0, 0, 0, 1]
    assert wrapped.sources().tolist() == [[1, 2, 0, 1, 2, 0]]
    assert wrapped.inside(0) == [
        (slice(0, 2), slice(1, 3)), (slice(2, 5), slice(0, 3)), (slice(5, 6), slice(0, 1))
    ]  # fmt: skip


def test_tiles_that_disagree_fade_into_each_other() -> None:
    """Two overlapping tiles consist of the constants 0 and 1. Over the whole overlap, the result
    rises from 0 to 1 in small steps."""
    constants = iter([0.0, 1.0])
    tiles = TilePlan(plan_axis(32, 64, 32), plan_axis(96, 64, 32))
    result = tiles.apply(
        lambda x: torch.full_like(x, next(constants)), [torch.zeros(1, 1, 32, 96)]
    )[0, 0, 0]
    assert torch.equal(result[:32], torch.zeros(32))
    assert torch.equal(result[64:], torch.ones(32))
    assert (result.diff() >= 0).all()
    assert result.diff().max() <= 1.6 / 32


def test_a_tile_that_wraps_fades_into_itself() -> None:
    """A single tile overlaps itself across the wrapped edge. Its values are a rising ramp; in the
    overlap, the result falls in small steps."""
    axis = plan_axis(64, 64, 32, wraps=True)
    assert (axis.tile, len(axis.starts)) == (96, 1)
    tiles = TilePlan(plan_axis(1, 1, 0), axis)
    ramp = torch.arange(96.0).expand(1, 1, 1, -1)
    result = tiles.apply(lambda _: ramp, [torch.zeros(1, 1, 1, 64)])[0, 0, 0]
    steps = torch.cat([result, result[:1]]).diff()
    assert steps.abs().max() < 4.5


def mix(x: Tensor) -> Tensor:
    """Stand-in for a network: the results depend on the whole tile."""
    return x.cumsum(2).cumsum(3) + x.mean(dim=(2, 3), keepdim=True)


@pytest.mark.parametrize(("h", "w"), [(64, 64), (96, 160)])
@pytest.mark.parametrize("batch", [1, 3, 100])
def test_tiles_of_all_images_go_together(h: int, w: int, batch: int) -> None:
    x, sizes, done = torch.randn(5, 3, h, w), [], []
    tiles = plan(h, w, 64, 16, batch, multiple=8)

    def record(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return mix(x)

    together = tiles.apply(record, [x], callback=lambda *n: done.append(n))
    assert max(sizes) == min(batch, 5 * len(tiles))
    assert len(sizes) == -(-5 * len(tiles) // batch)
    assert done[-1] == (5 * len(tiles), 5 * len(tiles))
    alone = [plan(h, w, 64, 16, multiple=8).apply(mix, [x[i : i + 1]]) for i in range(5)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_fixed_calls_have_a_full_batch() -> None:
    """With `fixed`, all calls have a full batch and thus the same shape, so that one compiled
    kernel suffices for any number of tiles."""
    x, shapes = torch.randn(3, 2, 40, 72), set()
    axes = [plan_axis(size, 48, 8, multiple=32, min_tile=32, margin=4) for size in (40, 72)]
    tiles = TilePlan(*axes, batch=4, fixed=True)

    def record(x: Tensor) -> Tensor:
        shapes.add(tuple(x.shape))
        return x

    torch.testing.assert_close(tiles.apply(record, [x]), x, atol=1e-6, rtol=0)
    assert shapes == {(4, 2, 64, 64)}
