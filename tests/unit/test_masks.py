"""Masks select the result where they are 1, and the pre-upsampled image where they are 0."""

import pytest
import torch
from torch import Tensor

from lpnsr_impl.pictures.masks import blend, mask_weights
from tests.golden.fill import noise


def left_half(h: int, w: int) -> Tensor:
    mask = torch.zeros(1, 1, h, w)
    mask[..., : w // 2] = 1
    return mask


@pytest.mark.parametrize("feather", [0, 1, 8, 100])
@pytest.mark.parametrize(("h", "w"), [(1, 1), (15, 20), (60, 80), (7, 9), (150, 200)])
def test_all_and_nothing_are_exact_in_any_size(feather: int, h: int, w: int) -> None:
    result, start = noise("result", (1, 3, 60, 80)), noise("start", (1, 3, 60, 80))
    for value, expected in ((0.0, start), (1.0, result)):
        weights = mask_weights(torch.full((1, 1, h, w), value), 15, 20, feather)
        assert torch.equal(blend(result, start, weights), expected)


@pytest.mark.parametrize("size", [(16, 24), (64, 96), (128, 192)])
def test_feather_fades_over_its_width_half_on_either_side(size: tuple[int, int]) -> None:
    weights = mask_weights(left_half(*size), 16, 24, 8)
    assert weights.shape == (1, 1, 64, 96)
    row = weights[0, 0, 30]
    around = 0 if size == (64, 96) else 3  # resizing the mask blurs its edge by a few more pixels
    assert (row[: 48 - 16 - around] == 1).all()
    assert (row[48 + 16 + around :] == 0).all()
    assert (row.diff() <= 0).all()
    assert row.diff().abs().max() < 1.1 / 16
    assert row[47] + row[48] == pytest.approx(1, abs=1e-3)


def test_without_feather_a_mask_of_the_results_size_stays_as_it_is() -> None:
    mask = left_half(64, 96)
    assert torch.equal(mask_weights(mask, 16, 24, 0), mask)


@pytest.mark.parametrize("size", [(16, 24), (40, 61), (256, 384)])
def test_in_any_size_of_the_result_it_is_the_same_mask(size: tuple[int, int]) -> None:
    h, w = size
    row = mask_weights(left_half(16, 24), 16, 24, 4, size=size)[0, 0, h // 2]
    assert row.shape == (w,)
    assert (row[: round(w / 3)] == 1).all()
    assert (row[-round(w / 3) :] == 0).all()
    assert row[(w - 1) // 2] + row[w // 2] == pytest.approx(1, abs=0.1)


def test_grey_masks_mix() -> None:
    weights = mask_weights(torch.full((1, 1, 4, 4), 0.25), 4, 4, 2)
    assert (blend(torch.ones(1, 3, 16, 16), torch.zeros(1, 3, 16, 16), weights) == 0.25).all()


def test_feather_goes_on_at_the_other_side_where_the_picture_wraps() -> None:
    plain = mask_weights(left_half(16, 24), 16, 24, 8)[0, 0, 30]
    wrapped = mask_weights(left_half(16, 24), 16, 24, 8, "x")[0, 0, 30]
    assert plain[0] == 1
    assert plain[-1] == 0
    assert wrapped[0] + wrapped[-1] == pytest.approx(1, abs=1e-3)
    assert wrapped[0] - wrapped[-1] < 0.1


def test_a_negative_feather_is_refused() -> None:
    with pytest.raises(ValueError, match="feather is -1, expected 0 or more"):
        mask_weights(torch.zeros(1, 1, 4, 4), 4, 4, -1)
