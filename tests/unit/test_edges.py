"""Images that tile seamlessly: the result does not depend on where the tileable image begins."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lpnsr_impl.config import Wrap
from lpnsr_impl.jobs.upscaler import Method, Upscaler, load_upscaler
from lpnsr_impl.pictures.color import COLOR_FIXES
from lpnsr_impl.pictures.consistency import back_project, lr_psnr
from lpnsr_impl.pictures.edges import resample, surround
from lpnsr_impl.pictures.images import bicubic_upsample
from lpnsr_impl.pictures.picture import Picture
from tests.golden.fill import noise

LITE = [f"lpnsr_lite_{part}.safetensors" for part in ("autoencoder", "denoiser", "noise_predictor")]
START = "lpnsr_lite_compact_x4.safetensors"

AXES: list[tuple[Wrap, list[int]]] = [("x", [3]), ("y", [2]), ("both", [2, 3])]
"""Values of `wrap`, and the tensor dimensions that wrap around."""


def picture(*shape: int) -> Tensor:
    return 0.5 + 0.1 * noise("wrap", shape).clamp(-3, 3)


def upsample(lr: Tensor, wrap: Wrap) -> Tensor:
    return resample(lr, 4 * lr.shape[2], 4 * lr.shape[3], wrap)


def fix_colors(name: str, lr: Tensor, wrap: Wrap) -> Tensor:
    reference, chosen = upsample(lr, wrap), COLOR_FIXES[name]
    assert chosen
    return surround(chosen[0], 0.8 * reference + 0.1, reference, reach=chosen[1], wrap=wrap)


@pytest.mark.parametrize(("wrap", "dims"), AXES)
@pytest.mark.parametrize(
    "change",
    [
        upsample,
        lambda lr, wrap: resample(lr.repeat_interleave(4, 2).repeat_interleave(4, 3), 18, 23, wrap),
        lambda lr, wrap: resample(lr, 36, 46, wrap),
        lambda lr, wrap: fix_colors("wavelet", lr, wrap),
        lambda lr, wrap: fix_colors("adain", lr, wrap),
        lambda lr, wrap: back_project(0.9 * upsample(lr, wrap), Picture(lr, wrap=wrap)),
        lambda lr, wrap: back_project(0.9 * resample(lr, 36, 46, wrap), Picture(lr, wrap=wrap)),
    ],
    ids=["x4", "down", "x2", "wavelet", "adain", "back_project", "back_project of x2"],
)
def test_where_a_picture_begins_makes_no_difference(
    change: Callable[[Tensor, Wrap], Tensor], wrap: Wrap, dims: list[int]
) -> None:
    lr = picture(1, 3, 18, 23)
    for dim in dims:
        result = change(lr, wrap)
        scale = result.shape[2] // 18
        rolled = change(lr.roll(7, dim), wrap)
        torch.testing.assert_close(rolled, result.roll(7 * scale, dim), atol=1e-5, rtol=0)
        unlike = change(lr.roll(7, dim), "none") - change(lr, "none").roll(7 * scale, dim)
        assert unlike.abs().max() > 1e-3 or change(lr, "none").equal(result)


@pytest.mark.parametrize("size", [(17, 22), (11, 13), (19, 31)])
def test_resampling_to_any_size_goes_on_at_the_other_side(size: tuple[int, int]) -> None:
    """Resampling with `wrap` gives the same result as repeating the picture 3x3, resampling it
    without `wrap`, and cropping the middle."""
    x = picture(1, 2, 18, 23)
    h, w = size
    middle = resample(x.repeat(1, 1, 3, 3), 3 * h, 3 * w, "none")[:, :, h : 2 * h, w : 2 * w]
    torch.testing.assert_close(resample(x, h, w, "both"), middle, atol=1e-5, rtol=0)


def test_without_wrap_resampling_is_plain_bicubic() -> None:
    x = picture(1, 3, 9, 11)
    assert torch.equal(upsample(x, "none"), bicubic_upsample(x))
    assert resample(x, 9, 11, "both") is x


def test_lr_psnr_sees_over_the_edge() -> None:
    lr = Picture(picture(1, 3, 16, 16), wrap="both")
    sr = back_project(upsample(lr.rgb, "both"), lr)
    assert lr_psnr(sr, lr) > lr_psnr(sr, Picture(lr.rgb)) + 10


# Sampling


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    return load_upscaler(*LITE, [START])


def waves(h: int, w: int) -> Tensor:
    """Make a periodic texture with detail, [1,3,h,w] in [0,1]."""
    x = torch.fft.fft2(noise("waves", (1, 3, h, w)))
    fy, fx = torch.fft.fftfreq(h)[:, None], torch.fft.fftfreq(w)
    x = torch.fft.ifft2(x / (0.02 + fy**2 + fx**2) ** 0.5).real
    return ((x - x.mean()) / x.std() / 6 + 0.5).clamp(0, 1)


def seam(x: Tensor, dim: int) -> float:
    """Return the squared gradient across the wrapped edge, divided by that beside the edge."""
    x = x.roll(x.shape[dim] // 2, dim)
    energy = x.diff(dim=dim).square().mean(dim=[d for d in range(4) if d != dim])
    edge = x.shape[dim] // 2 - 1
    beside = [edge + sign * d for d in range(6, 15) for sign in (-1, 1)]
    return float(energy[edge] / energy[beside].mean())


@pytest.mark.slow
@pytest.mark.parametrize("tile", [256, 64])
def test_the_wrapped_seam_is_invisible(upscaler: Upscaler, tile: int) -> None:
    """With `wrap`, the seam between opposite edges is hardly more visible than if the picture is
    rolled before upscaling, so that the seam is in its middle."""
    upscaler.tile = tile
    lr = waves(48, 56)
    method = Method("", START)
    wraps: tuple[Wrap, ...] = ("none", "x", "both")
    plain, x, both = (upscaler.upscale(Picture(lr, wrap=w), method) for w in wraps)
    assert plain.shape == x.shape == both.shape == (1, 3, 192, 224)
    middle = Picture(lr.roll((24, 28), (2, 3)))
    ideal = upscaler.upscale(middle, method).roll((96, 112), (2, 3))
    for dim, wrapped in ((2, (both,)), (3, (x, both))):
        assert seam(plain, dim) > 1.8 * seam(ideal, dim)
        assert all(seam(w, dim) < 1.25 * seam(ideal, dim) for w in wrapped)
    assert seam(x, 2) > 1.8 * seam(ideal, 2)
