"""Every network and the chain in half precision on the CPU, compared with the same networks in fp32
(which test_goldens.py compares with an independent implementation).

The networks have full size if the CPU supports the dtype natively. Otherwise the bundled networks
are used, since emulation takes many minutes at full size. pytest's report header tells which
networks are used.
"""

from copy import deepcopy
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lpnsr_impl import Schedule, load_autoencoder, load_denoiser, load_noise_predictor, sample
from lpnsr_impl.accelerate import accelerate, set_precision
from lpnsr_impl.files.folders import find_weights
from lpnsr_impl.models import Autoencoder, Denoiser, NoisePredictor

from .conftest import CPU, HAS_ARITHMETIC
from .fill import noise

SIZE = (1, 3, 64, 64)
Networks = tuple[Autoencoder, Denoiser, NoisePredictor]


@dataclass(frozen=True)
class Bars:
    """Error limits for one half-precision dtype.

    Attributes:
        rms: maximum RMS error, relative to the fp32 result.
        largest: maximum absolute error of a value.
        codes: minimum share of latent vectors with the same code as in fp32.
        psnr: minimum PSNR of the resulting image, in dB.
    """

    rms: float
    largest: float
    codes: float
    psnr: float

    def check(self, ours: Tensor, exact: Tensor) -> None:
        """Assert that a result is float32, within the limits, and not equal to the fp32 result."""
        assert ours.dtype == torch.float32
        assert ours.shape == exact.shape
        error = ours - exact
        assert 0 < error.norm() <= self.rms * exact.norm()
        assert error.abs().max() <= self.largest


# Limits for full-size networks: 1.5 times the values measured on a CPU with AVX-512. The relative
# RMS errors were 1.2e-2 to 1.7e-2 in bf16 and 1.5e-3 to 2.0e-3 in fp16, as expected from their 8
# and 11 significant bits.
FULL_SIZE = {
    torch.bfloat16: Bars(2.5e-2, 0.14, 0.80, 30.0),
    torch.float16: Bars(3e-3, 0.018, 0.96, 37.0),
}
# Limits for the bundled networks: twice the values measured on a CPU with AVX2. The relative RMS
# errors were 0.2e-2 to 1.0e-2 in bf16 and 2.6e-4 to 7.5e-4 in fp16.
BUNDLED = {
    torch.bfloat16: Bars(2e-2, 0.06, 0.94, 39.0),
    torch.float16: Bars(1.5e-3, 0.006, 0.995, 52.4),
}


@pytest.fixture(scope="module", params=HAS_ARITHMETIC, ids=["bf16", "fp16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(scope="module")
def bars(dtype: torch.dtype) -> Bars:
    return (FULL_SIZE if HAS_ARITHMETIC[dtype] else BUNDLED)[dtype]


@pytest.fixture(scope="module")
def exact(dtype: torch.dtype, request: pytest.FixtureRequest) -> Networks:
    """The fp32 networks: of full size, or bundled (see the module docstring)."""
    if HAS_ARITHMETIC[dtype]:
        return tuple(
            request.getfixturevalue(name) for name in ("autoencoder", "denoiser", "noise_predictor")
        )
    networks = (
        load_autoencoder(find_weights("lpnsr_lite_autoencoder.safetensors")),
        load_denoiser(find_weights("lpnsr_lite_denoiser.safetensors")),
        load_noise_predictor(find_weights("lpnsr_lite_noise_predictor.safetensors")),
    )
    for network in networks:
        accelerate(network, CPU)
    return networks


@pytest.fixture(scope="module")
def half(dtype: torch.dtype, exact: Networks) -> Networks:
    """Half-precision copies of the networks of `exact`."""
    copies = deepcopy(exact)
    for network in copies:
        set_precision(network, dtype, dtype)
        accelerate(network, CPU)
    return copies


def test_denoiser(bars: Bars, exact: Networks, half: Networks) -> None:
    x, lr = noise("in.x_t.64x64", SIZE), 0.5 * noise("in.lr.64x64", SIZE)
    bars.check(half[1](x, 0, lr), exact[1](x, 0, lr))


def test_noise_predictor(bars: Bars, exact: Networks, half: Networks) -> None:
    x, lr = noise("in.x_t.64x64", SIZE), 0.5 * noise("in.lr.64x64", SIZE)
    x0 = noise("in.x0.64x64", SIZE)
    for ours, expected in zip(half[2](x, x0, lr, 0), exact[2](x, x0, lr, 0), strict=True):
        bars.check(ours, expected)


def test_encode(bars: Bars, exact: Networks, half: Networks) -> None:
    image = torch.tanh(0.5 * noise("in.image", (1, 3, 128, 96)))
    bars.check(half[0].encode(image), exact[0].encode(image))


def test_decode(bars: Bars, exact: Networks, half: Networks) -> None:
    """The quantised latents are equal, since the nearest codes are searched in fp32."""
    latent = noise("in.latent", (1, 3, 24, 32))
    assert torch.equal(half[0].quantize(latent), exact[0].quantize(latent))
    bars.check(half[0].decode(latent), exact[0].decode(latent))


def run_chain(networks: Networks) -> tuple[Tensor, Tensor, Tensor]:
    """Return y0, the sampled latent and the decoded image."""
    autoencoder, denoiser, noise_predictor = networks
    lr = torch.tanh(
        F.interpolate(noise("in.lr_image", (1, 3, 16, 16)), size=SIZE[2:], mode="bicubic")
    )
    y0 = autoencoder.encode(F.interpolate(lr, scale_factor=4, mode="bicubic"))

    def golden_noise(kind: str, t: int, shape: torch.Size) -> Tensor:
        return noise("in.z_T" if kind == "init" else f"in.eps.t{t}", shape)

    x0 = sample(denoiser, noise_predictor, Schedule(), y0, lr, noise=golden_noise)
    return y0, x0, autoencoder.decode(x0).clamp(-1, 1)


@pytest.mark.slow
def test_chain(bars: Bars, exact: Networks, half: Networks) -> None:
    """Rounding errors accumulate over the 4 sampling steps, but stay within the limits."""
    (y0, x0, image), (exact_y0, exact_x0, exact_image) = run_chain(half), run_chain(exact)
    bars.check(y0, exact_y0)
    bars.check(x0, exact_x0)
    quantize = exact[0].quantize
    assert (quantize.codes(x0) == quantize.codes(exact_x0)).float().mean() >= bars.codes
    error = (image - exact_image) / 2
    assert -10 * error.square().mean().log10() >= bars.psnr
