"""LR-PSNR (the PSNR between the downscaled result and the LR picture) and back-projection."""

import pytest
import torch
from torch import Tensor

from lpnsr_impl.pictures.consistency import back_project, lr_psnr
from lpnsr_impl.pictures.edges import resample
from lpnsr_impl.pictures.images import bicubic_upsample
from lpnsr_impl.pictures.picture import Picture
from tests.golden.fill import noise


def lr_picture(b: int = 1, h: int = 17, w: int = 23) -> Picture:
    """Make an LR picture whose values are far enough from 0 and 1 that clamping has no effect."""
    return Picture(0.5 + 0.06 * noise("consistency.lr", (b, 3, h, w)).clamp(-3, 3))


def rough(lr: Picture) -> Tensor:
    """Upscale `lr` x4, darken the result, and add noise."""
    b, h, w = lr.size
    sr = 0.9 * bicubic_upsample(lr.rgb) + 0.03 * noise("consistency.sr", (b, 3, 4 * h, 4 * w))
    return sr.clamp(0, 1)


@pytest.mark.parametrize(("h", "w"), [(1, 1), (2, 7), (17, 23)])
def test_a_back_projected_picture_is_the_lr_picture_downscaled(h: int, w: int) -> None:
    lr = lr_picture(2, h, w)
    sr = rough(lr)
    assert lr_psnr(sr, lr) < 40
    assert lr_psnr(back_project(sr, lr), lr) > 55


def test_each_iteration_comes_closer() -> None:
    lr = lr_picture()
    psnrs = [lr_psnr(back_project(rough(lr), lr, n), lr) for n in range(5)]
    assert psnrs == sorted(psnrs)
    assert torch.equal(back_project(rough(lr), lr, 0), rough(lr))


def test_back_projection_keeps_detail() -> None:
    """Back-projection corrects low frequencies, and hardly changes high frequencies."""
    lr = lr_picture()
    detail = 0.1 * torch.tensor([1.0, -1.0]).repeat(46)  # alternates from pixel to pixel
    sr = back_project(bicubic_upsample(lr.rgb) + detail, lr)
    without = back_project(bicubic_upsample(lr.rgb), lr)
    torch.testing.assert_close(sr - without, detail.expand_as(sr), atol=0.03, rtol=0)


def test_the_range_is_kept_where_the_lr_picture_is_black_and_white() -> None:
    lr = Picture((noise("consistency.lr", (1, 3, 16, 16)) > 0).float())
    sr = back_project(rough(lr), lr)
    assert sr.min() >= 0
    assert sr.max() <= 1
    assert lr_psnr(sr, lr) > lr_psnr(rough(lr), lr)


def test_lr_psnr_is_the_mean_over_a_batch() -> None:
    lr = lr_picture(2)
    sr = rough(lr)
    sr[1] = (sr[1] + 0.2).clamp(0, 1)
    alone = [lr_psnr(sr[i : i + 1], lr[i : i + 1]) for i in range(2)]
    assert lr_psnr(sr, lr) == pytest.approx(sum(alone) / 2, abs=1e-3)
    assert alone[1] < alone[0]


def test_lr_psnr_is_10_log_of_the_squared_error_and_at_most_100() -> None:
    sr = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    small = resample(sr, 8, 8)
    assert lr_psnr(sr, Picture(small)) == 100
    assert lr_psnr(sr, Picture(small + 0.1)) == pytest.approx(20, abs=1e-3)


@pytest.mark.parametrize(("h", "w"), [(17, 23), (18, 23), (25, 35), (102, 138), (150, 200)])
def test_results_of_other_sizes_are_met_as_well(h: int, w: int) -> None:
    lr = lr_picture()
    sr = resample(rough(lr), h, w).clamp(0, 1)
    assert lr_psnr(sr, lr) < 40
    assert lr_psnr(back_project(sr, lr), lr) > 55


@pytest.mark.parametrize("function", [back_project, lr_psnr])
@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (1, 1, 32, 32), (1, 3, 32, 7), (1, 3, 7, 32)])
def test_another_batch_and_smaller_results_are_refused(
    function: object, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="expected equal batch sizes and channels"):
        function(torch.rand(shape), Picture(torch.rand(1, 3, 8, 8)))  # type: ignore[operator]
