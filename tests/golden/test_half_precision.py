"""Every part and the chain in half precision on the CPU, against the fp32 goldens.

Bars are half more than what was measured on AVX-512: relative errors (RMS) of 1.2 to 1.7e-2 in bf16
and 1.5 to 2.0e-3 in fp16, as their 8 and 11 bits let expect.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lpnsr_impl import Schedule, sample
from lpnsr_impl.accelerate import accelerate, set_precision
from lpnsr_impl.models import Autoencoder, Denoiser, NoisePredictor

from .fill import noise

SIZE = (1, 3, 64, 64)


@dataclass(frozen=True)
class Precision:
    """A dtype and its bars.

    rms: of the error, relative to the golden's. largest: of one value. codes: share of latent
    vectors that fall on the golden's code. psnr: of the picture that comes of it, in dB.
    """

    dtype: torch.dtype
    rms: float
    largest: float
    codes: float
    psnr: float

    def check(self, ours: Tensor, golden: Tensor) -> None:
        """Finite float32 within the bars."""
        assert ours.dtype == torch.float32
        assert ours.shape == golden.shape
        error = ours - golden
        assert error.norm() <= self.rms * golden.norm()
        assert error.abs().max() <= self.largest


@pytest.fixture(
    scope="module",
    params=[
        Precision(torch.bfloat16, 2.5e-2, 0.14, 0.80, 30.0),
        Precision(torch.float16, 3e-3, 0.018, 0.96, 37.0),
    ],
    ids=["bf16", "fp16"],
)
def precision(request: pytest.FixtureRequest) -> Precision:
    return request.param


@pytest.fixture(scope="module")
def networks(
    precision: Precision,
    autoencoder: Autoencoder,
    denoiser: Denoiser,
    noise_predictor: NoisePredictor,
) -> tuple[Autoencoder, Denoiser, NoisePredictor]:
    """Copies in the precision."""
    copies = deepcopy((autoencoder, denoiser, noise_predictor))
    for network in copies:
        set_precision(network, precision.dtype, precision.dtype)
        accelerate(network, torch.device("cpu"))
    return copies


Networks = tuple[Autoencoder, Denoiser, NoisePredictor]


def test_denoiser(goldens: dict[str, Tensor], precision: Precision, networks: Networks) -> None:
    x, lr = noise("in.x_t.64x64", SIZE), 0.5 * noise("in.lr.64x64", SIZE)
    precision.check(networks[1](x, 0, lr), goldens["denoiser.64x64.t0"])


def test_noise_predictor(
    goldens: dict[str, Tensor], precision: Precision, networks: Networks
) -> None:
    x, lr = noise("in.x_t.64x64", SIZE), 0.5 * noise("in.lr.64x64", SIZE)
    mean, logvar = networks[2](x, noise("in.x0.64x64", SIZE), lr, 0)
    precision.check(mean, goldens["predictor.64x64.t0.mean"])
    precision.check(logvar, goldens["predictor.64x64.t0.logvar"])


def test_encode(goldens: dict[str, Tensor], precision: Precision, networks: Networks) -> None:
    image = torch.tanh(0.5 * noise("in.image", (1, 3, 128, 96)))
    precision.check(networks[0].encode(image), goldens["vae.encode"])


def test_decode(goldens: dict[str, Tensor], precision: Precision, networks: Networks) -> None:
    """The codes are searched in fp32, so they are the golden ones."""
    latent = noise("in.latent", (1, 3, 24, 32))
    torch.testing.assert_close(
        networks[0].quantize(latent), goldens["vae.quantize"], rtol=0, atol=1e-6
    )
    precision.check(networks[0].decode(latent), goldens["vae.decode"])


def test_chain(goldens: dict[str, Tensor], precision: Precision, networks: Networks) -> None:
    """From the picture to the picture, rounding errors of 4 steps and all."""
    autoencoder, denoiser, noise_predictor = networks
    lr = torch.tanh(
        F.interpolate(noise("in.lr_image", (1, 3, 16, 16)), size=SIZE[2:], mode="bicubic")
    )
    y0 = autoencoder.encode(F.interpolate(lr, scale_factor=4, mode="bicubic"))
    precision.check(y0, goldens["chain.y0"])

    def golden_noise(kind: str, t: int, shape: torch.Size) -> Tensor:
        return noise("in.z_T" if kind == "init" else f"in.eps.t{t}", shape)

    x0 = sample(denoiser, noise_predictor, Schedule(), y0, lr, noise=golden_noise)
    golden = goldens["chain.steps4.predictor_on"]
    precision.check(x0, golden)
    codes: Callable[[Tensor], Tensor] = autoencoder.quantize.codes
    assert (codes(x0) == codes(golden)).float().mean() >= precision.codes
    error = (autoencoder.decode(x0).clamp(-1, 1) - goldens["chain.steps4.image"]) / 2
    assert -10 * error.square().mean().log10() >= precision.psnr
