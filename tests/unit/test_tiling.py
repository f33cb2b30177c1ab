"""Tiles cover a latent evenly, and blending them cannot be seen."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from lpnsr_impl.pictures.tiling import apply_tiled, plan_tiles

SIZES = [(64, 64, 64, 16), (96, 160, 64, 16), (200, 72, 64, 24), (8, 1000, 32, 8), (64, 64, 32, 0)]


@pytest.mark.parametrize(("h", "w", "tile", "overlap"), SIZES)
def test_tiles_are_equal_inside_and_overlap_enough(h: int, w: int, tile: int, overlap: int) -> None:
    plan = plan_tiles(h, w, tile, overlap, 8)
    for starts, size, side in zip((plan.rows, plan.columns), (h, w), plan.tile, strict=True):
        assert starts[0] == 0
        assert starts[-1] + side == size
        assert all(start % 8 == 0 for start in starts)
        shared = [a + side - b for a, b in pairwise(starts)]
        assert all(s >= overlap for s in shared)
        if len(starts) > 1:
            fewer = side + (len(starts) - 2) * (side - overlap)
            assert fewer < size, "one tile less would have done"


@pytest.mark.parametrize(
    ("size", "tile", "least", "expected"),
    [
        (512, 256, 64, (192, (0, 160, 320))),  # 3 are needed, which need not be 256
        (1024, 256, 64, (232, (0, 192, 392, 592, 792))),
        (72, 64, 64, (64, (0, 8))),
        (64, 64, 0, (64, (0,))),
    ],
)
def test_tiles_are_no_larger_than_so_many_need_to_be(
    size: int, tile: int, least: int, expected: tuple[int, tuple[int, ...]]
) -> None:
    plan = plan_tiles(size, 64, tile, 32, 8, least=least)
    assert (plan.tile[0], plan.rows) == expected


@pytest.mark.parametrize(("h", "w", "tile", "overlap"), SIZES)
def test_tiling_nothing_changes_nothing(h: int, w: int, tile: int, overlap: int) -> None:
    x = torch.randn(2, 3, h, w)
    plan = plan_tiles(h, w, tile, overlap, 8)
    assert torch.allclose(apply_tiled(lambda x: x, [x], plan), x, atol=1e-6)


@pytest.mark.parametrize(("input_scale", "output_scale"), [(4, 1), (1, 4)])
def test_scales_of_encoder_and_decoder(input_scale: int, output_scale: int) -> None:
    x = torch.randn(1, 3, 40 * input_scale, 72 * input_scale)

    def resample(x: Tensor) -> Tensor:
        if input_scale == 4:
            return torch.nn.functional.avg_pool2d(x, 4)
        return x.repeat_interleave(4, 2).repeat_interleave(4, 3)

    plan = plan_tiles(40, 72, 32, 8, 8)
    tiled = apply_tiled(resample, [x], plan, input_scale=input_scale, output_scale=output_scale)
    assert torch.allclose(tiled, resample(x), atol=1e-6)


def test_tiles_that_disagree_fade_into_each_other() -> None:
    """Each tile in a constant of its own: no step between neighbouring pixels beyond the ramp's."""
    plan = plan_tiles(32, 96, 64, 32, 8)
    constants = iter([0.0, 1.0])
    result = apply_tiled(
        lambda x: torch.full_like(x, next(constants)), [torch.zeros(1, 1, 32, 96)], plan
    )[0, 0, 0]
    assert torch.equal(result[:32], torch.zeros(32))
    assert torch.equal(result[64:], torch.ones(32))
    assert (result.diff() >= 0).all()
    assert result.diff().max() <= 1.6 / 32


def blurred(x: Tensor) -> Tensor:
    """Every value depends on its whole tile, as a network's does."""
    return x.cumsum(2).cumsum(3) + x.mean(dim=(2, 3), keepdim=True)


@pytest.mark.parametrize(("h", "w"), [(64, 64), (96, 160)])
@pytest.mark.parametrize("batch", [1, 3, 100])
def test_tiles_of_all_pictures_go_together(h: int, w: int, batch: int) -> None:
    x, shapes = torch.randn(5, 3, h, w), []
    plan = plan_tiles(h, w, 64, 16, 8, batch)

    def watched(x: Tensor) -> Tensor:
        shapes.append(len(x))
        return blurred(x)

    together = apply_tiled(watched, [x], plan)
    assert max(shapes) == min(batch, 5 * len(plan))
    assert len(shapes) == -(-5 * len(plan) // batch)
    alone = [apply_tiled(blurred, [x[i : i + 1]], plan_tiles(h, w, 64, 16, 8)) for i in range(5)]
    torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize(
    ("size", "shape"),
    [((16, 24), (64, 64)), ((64, 72), (64, 128)), ((200, 304), (256, 256)), ((8, 600), (64, 256))],
)
def test_fixed_calls_have_one_shape(size: tuple[int, int], shape: tuple[int, int]) -> None:
    """So that kernels for one shape do for pictures of many sizes."""
    x, shapes = torch.randn(3, 2, *size), set()
    plan = plan_tiles(*size, 256, 32, 8, batch=2, least=64, fixed=True)

    def watched(x: Tensor) -> Tensor:
        shapes.add(tuple(x.shape))
        return x.repeat_interleave(4, 2).repeat_interleave(4, 3)

    result = apply_tiled(watched, [x], plan, output_scale=4)
    assert shapes == {(2, 2, *shape)}
    torch.testing.assert_close(result, x.repeat_interleave(4, 2).repeat_interleave(4, 3))


def test_one_tile_is_the_plain_call() -> None:
    x = torch.randn(1, 3, 16, 16)
    called: list[Tensor] = []
    apply_tiled(lambda x: called.append(x) or x, [x], plan_tiles(16, 16, 64, 8, 8))
    assert len(called) == 1
    assert called[0] is x


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((60, 64, 64, 8, 8), "64x60"),
        ((64, 64, 60, 8, 8), "tiles are 60"),
        ((64, 64, 32, 32, 8), "0 to 24"),
        ((64, 64, 32, -1, 8), "0 to 24"),
        ((0, 64, 32, 8, 8), "64x0"),
    ],
)
def test_plans_that_cannot_be_are_refused(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_tiles(*arguments)
