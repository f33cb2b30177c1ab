"""Padding, resampling, seeded noise and colour fixes."""

import pytest
import torch
import torch.nn.functional as F

from lpnsr_impl import (
    adain_color_fix,
    wavelet_color_fix,
)
from lpnsr_impl.method.noise import seeded_noise
from lpnsr_impl.pictures.images import (
    bicubic_upsample,
    reflect_pad,
    split_channels,
    to_01,
    to_pm1,
)
from tests.golden.fill import noise


@pytest.mark.parametrize(("h", "w"), [(1, 1), (2, 5), (7, 3), (16, 16)])
def test_padding_mirrors_again_and_again(h: int, w: int) -> None:
    x = noise("images.x", (2, 3, h, w))
    padded = reflect_pad(x, 16, 16)
    assert padded.shape == (2, 3, 16, 16)
    assert torch.equal(padded[:, :, :h, :w], x)
    if 1 < h < 9 and 1 < w < 9:
        expected = F.pad(x, (0, w - 1, 0, h - 1), mode="reflect")
        assert torch.equal(padded[:, :, : 2 * h - 1, : 2 * w - 1], expected)
    assert padded.unique().numel() == x.unique().numel()


def test_padding_refuses_to_cut() -> None:
    with pytest.raises(ValueError, match="Cannot pad height 4 and width 4 to 3 and 8"):
        reflect_pad(torch.zeros(1, 1, 4, 4), 3, 8)


def test_bicubic_is_exactly_four_times_and_keeps_constants() -> None:
    assert bicubic_upsample(torch.full((1, 3, 1, 1), 0.3)).shape == (1, 3, 4, 4)
    torch.testing.assert_close(
        bicubic_upsample(torch.full((1, 1, 5, 3), 0.3)), torch.full((1, 1, 20, 12), 0.3)
    )


def test_ranges_are_inverse() -> None:
    x = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(to_01(to_pm1(x)), x)
    assert to_01(torch.tensor([-3.0, 3.0])).tolist() == [0, 1]


def test_noise_depends_on_the_seed_alone() -> None:
    shape = torch.Size((1, 3, 8, 8))
    source = seeded_noise(7)
    first, step3 = source("init", 4, shape), source("step", 3, shape)
    torch.rand(5)  # using the global generator has no effect
    assert torch.equal(seeded_noise(7)("step", 3, shape), step3)
    assert torch.equal(seeded_noise(7)("init", 2, shape), first), (
        "the initial noise depends on the number of steps"
    )
    draws = [
        first,
        step3,
        source("step", 4, shape),
        source("step", 2, shape),
        seeded_noise(8)("init", 4, shape),
    ]
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == len(draws)
    with pytest.raises(ValueError, match="Got the noise kind 'step' at t = 1"):
        source("step", 1, shape)


def test_a_run_draws_each_noise_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shape, drawn, randn = torch.Size((1, 3, 8, 8)), [], torch.randn
    monkeypatch.setattr(
        torch, "randn", lambda *size, **how: drawn.append(size) or randn(*size, **how)
    )
    source = seeded_noise(7, 15)
    source("init", 15, shape)
    for t in range(15, 1, -1):
        source("step", t, shape)
    assert len(drawn) == 15


@pytest.mark.parametrize("seed", [0, 2**32, 2**64 - 1])
def test_noise_is_standard_normal_for_any_seed(seed: int) -> None:
    n = seeded_noise(seed)("init", 4, torch.Size((1, 3, 128, 128)))
    assert n.mean().abs() < 0.02
    assert (n.std() - 1).abs() < 0.02


def test_all_64_bits_of_a_seed_count() -> None:
    shape = torch.Size((1, 3, 8, 8))
    seeds = [5, 5 + 2**32, 5 + 2**63, 5 * 2**32, 5 * 2**32 + 1]
    starts = [seeded_noise(seed)("init", 4, shape) for seed in seeds]
    assert len({float(start.sum()) for start in starts}) == len(seeds)
    assert torch.equal(starts[0], torch.randn(shape, generator=torch.Generator().manual_seed(5)))


@pytest.mark.parametrize("hidden", [0.0, 2 / 255])
def test_hidden_colours_do_not_count(hidden: float) -> None:
    """`split_channels` turns the black of transparent and nearly transparent pixels around a yellow
    disc into yellow."""
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    distance = ((y - 23.5) ** 2 + (x - 23.5) ** 2).sqrt()
    alpha = (16.5 - distance).clamp(0, 1)
    yellow = torch.tensor([1.0, 0.9, 0.1]).view(3, 1, 1)
    rgb = torch.where(alpha > 0, yellow, torch.zeros(3, 1, 1))
    alpha = torch.where((alpha == 0) & (distance < 20), hidden, alpha)
    filled, out = split_channels(torch.cat([rgb, alpha[None]])[None])
    assert out is not None
    assert torch.equal(out[0, 0], alpha)
    visible = alpha >= 1 / 8
    assert torch.equal(filled[0][:, visible], rgb[:, visible])
    assert (filled[0] - yellow).abs().max() < 0.07


@pytest.mark.parametrize(("channels", "has_alpha"), [(1, False), (2, True), (3, False), (4, True)])
def test_channels_are_told_apart(channels: int, has_alpha: bool) -> None:
    x = torch.rand(2, channels, 5, 6, generator=torch.Generator().manual_seed(0)) / 2 + 0.25
    rgb, alpha = split_channels(x)
    assert torch.equal(rgb, x[:, : 1 if channels < 3 else 3].expand(-1, 3, -1, -1))
    assert (alpha is not None) == has_alpha
    assert alpha is None or torch.equal(alpha, x[:, -1:])


def picture(name: str, *shape: int) -> torch.Tensor:
    return 0.5 + 0.25 * noise(name, shape).tanh()


def test_wavelet_fix_of_a_picture_with_itself_changes_nothing() -> None:
    x = picture("color.x", 2, 3, 40, 56)
    torch.testing.assert_close(wavelet_color_fix(x, x), x)


def test_wavelet_fix_removes_a_colour_cast_and_keeps_detail() -> None:
    x = picture("color.x", 1, 3, 64, 64)
    cast = x + torch.tensor([0.1, -0.05, 0.02]).view(1, 3, 1, 1)
    torch.testing.assert_close(wavelet_color_fix(cast, x), x)


def test_adain_fix_takes_mean_and_deviation() -> None:
    x, reference = (
        picture("color.x", 2, 3, 40, 56),
        0.4 + 0.2 * picture("color.reference", 2, 3, 40, 56),
    )
    fixed = adain_color_fix(x, reference)
    torch.testing.assert_close(fixed.mean((2, 3)), reference.mean((2, 3)))
    torch.testing.assert_close(fixed.std((2, 3)), reference.std((2, 3)))


@pytest.mark.parametrize("fix", [wavelet_color_fix, adain_color_fix])
def test_color_fixes_take_any_size_and_name_wrong_shapes(fix) -> None:
    one = torch.full((1, 3, 1, 1), 0.3)
    torch.testing.assert_close(fix(torch.full((1, 3, 1, 1), 0.9), one), one)
    with pytest.raises(ValueError, match=r"sr is \(1, 3, 4, 4\) and reference \(1, 3, 4, 5\)"):
        fix(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 5))
