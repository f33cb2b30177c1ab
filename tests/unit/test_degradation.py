"""Random degradation of pictures: blur kernels, frequencies of the random branches, and the effect
of each step."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from lpnsr_impl.jobs.degradation import Degradation, degrade, draw
from lpnsr_impl.jobs.degradation.apply import add_noise, blur, jpeg
from lpnsr_impl.jobs.degradation.kernels import gaussian_kernel, sinc_kernel
from lpnsr_impl.jobs.degradation.parameters import Blur, Noise, Order, Resize

DRAWS = 4000


@pytest.fixture(scope="module")
def drawn() -> list[Degradation]:
    rng = np.random.default_rng(0)
    return [draw(rng) for _ in range(DRAWS)]


def picture(h: int = 64, w: int = 48) -> Tensor:
    return torch.rand(1, 3, h, w, generator=torch.Generator().manual_seed(0))


def assert_frequency(count: int, n: int, p: float) -> None:
    """Assert that `count` is within four standard deviations of the mean of the binomial
    distribution B(n, p)."""
    assert abs(count - n * p) <= 4 * math.sqrt(n * p * (1 - p)), f"{count} of {n}, expected {n * p}"


def orders(drawn: list[Degradation], which: str) -> list[Order]:
    return [order for d in drawn if (order := getattr(d, which))]


# Blur kernels


@pytest.mark.parametrize("shape", ["gaussian", "generalized", "plateau"])
@pytest.mark.parametrize("size", [3, 11, 21])
def test_kernels_sum_to_one_and_are_symmetric(shape: str, size: int) -> None:
    kernel = gaussian_kernel(size, 1.7, 0.6, 0.4, shape, 1.5)
    assert kernel.shape == (size, size)
    assert kernel.sum().item() == pytest.approx(1, abs=1e-6)
    assert (kernel >= 0).all()
    assert torch.allclose(kernel, kernel.flip(0, 1), atol=1e-7)


def test_a_gaussian_kernel_has_its_deviations_along_its_axes() -> None:
    kernel = gaussian_kernel(41, 3.0, 1.0, math.pi / 2).double()
    axis = torch.arange(41, dtype=torch.float64) - 20
    assert (kernel.sum(1) * axis**2).sum().sqrt().item() == pytest.approx(3, rel=1e-3)
    assert (kernel.sum(0) * axis**2).sum().sqrt().item() == pytest.approx(1, rel=1e-2)


def test_generalized_with_beta_one_is_gaussian() -> None:
    plain = gaussian_kernel(9, 1.2, 0.7, 0.3)
    assert torch.allclose(plain, gaussian_kernel(9, 1.2, 0.7, 0.3, "generalized", 1.0))


@pytest.mark.parametrize("cutoff", [math.pi / 3, 2.0, math.pi])
def test_sinc_kernels_sum_to_one_and_pass_what_is_below_their_cutoff(cutoff: float) -> None:
    kernel = sinc_kernel(21, cutoff)
    assert kernel.sum().item() == pytest.approx(1, abs=1e-5)
    response = torch.fft.fft2(kernel.double(), s=(128, 128)).abs()[0]
    omega = 2 * math.pi * torch.arange(128) / 128
    assert (response[omega < 0.6 * cutoff] > 0.8).all()
    if cutoff < 2.5:
        assert (response[(omega > 1.4 * cutoff) & (omega < math.pi)] < 0.2).all()


# Random parameters of degradations


def test_the_second_order_and_the_final_sinc_come_as_often_as_they_should(
    drawn: list[Degradation],
) -> None:
    assert_frequency(sum(d.second is not None for d in drawn), DRAWS, 0.5)
    assert_frequency(sum(d.final_sinc is not None for d in drawn), DRAWS, 0.8)
    assert_frequency(sum(d.jpeg_last for d in drawn), DRAWS, 0.5)


@pytest.mark.parametrize(
    ("which", "blurred", "sizes"), [("first", 1.0, (3, 21)), ("second", 0.8, (3, 15))]
)
def test_blur_branches(
    drawn: list[Degradation], which: str, blurred: float, sizes: tuple[int, int]
) -> None:
    of = orders(drawn, which)
    blurs = [order.blur for order in of if order.blur]
    assert_frequency(len(blurs), len(of), blurred)
    counts = Counter(b.name for b in blurs)
    expected = {
        "sinc": 0.1,
        "gaussian iso": 0.9 * 0.45,
        "gaussian aniso": 0.9 * 0.25,
        "generalized iso": 0.9 * 0.12,
        "generalized aniso": 0.9 * 0.03,
        "plateau iso": 0.9 * 0.12,
        "plateau aniso": 0.9 * 0.03,
    }
    assert counts.keys() == expected.keys()
    for name, p in expected.items():
        assert_frequency(counts[name], len(blurs), p)
    seen = {b.kernel.shape[0] for b in blurs}
    assert seen == set(range(sizes[0], sizes[1] + 1, 2))
    assert all(abs(b.kernel.sum().item() - 1) < 1e-5 for b in blurs)


@pytest.mark.parametrize(
    ("which", "up", "down", "scales", "sigma", "poisson"),
    [
        ("first", 0.2, 0.7, (0.15, 1.5), 30, 3.0),
        ("second", 0.3, 0.4, (0.3, 1.2), 25, 2.5),
    ],
)
def test_resizes_and_noises(
    drawn: list[Degradation],
    which: str,
    up: float,
    down: float,
    scales: tuple[float, float],
    sigma: float,
    poisson: float,
) -> None:
    of = orders(drawn, which)
    n = len(of)
    assert_frequency(sum(o.resize.scale > 1 for o in of), n, up)
    assert_frequency(sum(o.resize.scale < 1 for o in of), n, down)
    drawn_scales = [o.resize.scale for o in of]
    assert scales[0] <= min(drawn_scales) < scales[0] + 0.05
    assert scales[1] - 0.05 < max(drawn_scales) <= scales[1]
    for mode in ("area", "bilinear", "bicubic"):
        assert_frequency(sum(o.resize.mode == mode for o in of), n, 1 / 3)
    assert_frequency(sum(o.noise.grey for o in of), n, 0.4)
    gaussian = [o.noise.level * 255 for o in of if o.noise.kind == "gaussian"]
    counted = [o.noise.level for o in of if o.noise.kind == "poisson"]
    assert_frequency(len(gaussian), n, 0.5)
    assert 1 <= min(gaussian) < 1.5 and sigma - 0.5 < max(gaussian) <= sigma  # noqa: PT018
    assert 0.05 <= min(counted) < 0.1 and poisson - 0.1 < max(counted) <= poisson  # noqa: PT018


def test_jpeg_qualities_span_their_range(drawn: list[Degradation]) -> None:
    for qualities in ([d.first_jpeg for d in drawn], [d.final_jpeg for d in drawn]):
        assert (min(qualities), max(qualities)) == (30, 95)
        assert np.mean(qualities) == pytest.approx(62.5, abs=1.5)


# Applying a degradation to a picture


def test_degrading_is_pure() -> None:
    hr = picture()
    before, state = hr.clone(), torch.random.get_rng_state()
    d = draw(np.random.default_rng(3))
    first = degrade(hr, d)
    assert torch.equal(first, degrade(hr, d))
    assert torch.equal(hr, before)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("seed", range(12))
def test_the_result_is_a_quarter_in_size_and_eight_bit(seed: int) -> None:
    lr = degrade(picture(72, 44), draw(np.random.default_rng(seed)))
    assert lr.shape == (1, 3, 18, 11)
    assert lr.min() >= 0
    assert lr.max() <= 1
    assert torch.allclose(lr * 255, (lr * 255).round(), atol=1e-4)


def test_each_picture_of_a_batch_can_have_its_own_degradation() -> None:
    rng = np.random.default_rng(1)
    hr, ds = torch.cat([picture(), picture().flip(3)]), [draw(rng), draw(rng)]
    both = degrade(hr, ds)
    for i in range(2):
        assert torch.equal(both[i : i + 1], degrade(hr[i : i + 1], ds[i]))


@pytest.mark.parametrize("shape", [(1, 3, 30, 32), (1, 1, 32, 32), (3, 32, 32)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        degrade(torch.zeros(shape), draw(np.random.default_rng(0)))


def test_a_batch_needs_as_many_degradations_as_pictures() -> None:
    with pytest.raises(ValueError, match="1 degradations for 2"):
        degrade(torch.zeros(2, 3, 32, 32), [draw(np.random.default_rng(0))])


def test_blur_keeps_a_flat_picture_up_to_its_edges() -> None:
    flat = torch.full((1, 3, 8, 8), 0.3)  # a picture smaller than the kernel
    blurred = blur(flat, Blur("sinc", sinc_kernel(21, 2.0)))
    assert torch.allclose(blurred, flat, atol=1e-5)


@pytest.mark.parametrize("grey", [False, True])
def test_gaussian_noise_has_its_deviation(grey: bool) -> None:
    flat = torch.full((1, 3, 200, 200), 0.5)
    n = add_noise(flat, Noise("gaussian", 0.1, grey, 5)) - flat
    assert n.std().item() == pytest.approx(0.1, rel=0.03)
    assert torch.equal(n[:, 0], n[:, 1]) == grey


def test_poisson_noise_grows_with_the_root_of_brightness() -> None:
    levels = torch.linspace(0, 1, 256).repeat(1, 3, 400, 1)  # a column for each of 256 grey values
    n = add_noise(levels, Noise("poisson", 1.0, False, 5)) - levels
    for value in (50, 200):
        expected = math.sqrt(value / 255 / 256)
        assert n[..., value].std().item() == pytest.approx(expected, rel=0.1)


def test_grey_poisson_noise_is_as_strong_as_coloured() -> None:
    x = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    grey, coloured = (
        (add_noise(x, Noise("poisson", 0.3, g, 5)) - x).std().item() for g in (True, False)
    )
    assert grey == pytest.approx(coloured, rel=0.25)


def test_jpeg_loses_more_at_lower_quality() -> None:
    x = picture()
    errors = [(jpeg(x, quality) - x).abs().mean() for quality in (95, 60, 30)]
    assert 0 < errors[0] < errors[1] < errors[2]


def test_without_blur_resize_noise_the_rest_is_small() -> None:
    """A degradation without blur and noise, and with weak JPEG compression, nearly averages 4x4
    blocks."""
    ramp = torch.linspace(0.2, 0.8, 64).expand(1, 3, 64, 64).contiguous()
    still = Order(None, Resize(1.0, "area"), Noise("gaussian", 0.0, False, 0))
    gentle = replace(
        draw(np.random.default_rng(0)),
        first=still, second=None, first_jpeg=95, final_jpeg=95, final_sinc=None, final_mode="area",
    )  # fmt: skip
    expected = torch.nn.functional.avg_pool2d(ramp, 4)
    assert (degrade(ramp, gentle) - expected).abs().max() < 0.02
