"""Full-size networks and sampling in fp32 on the CPU, compared with an independent
implementation."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lpnsr_impl import Schedule, sample, sample_once, wavelet_color_fix
from lpnsr_impl.config import RESSHIFT_15, RSD, SINSR, StudentConfig
from lpnsr_impl.files.checkpoints import DENOISER, load_model
from lpnsr_impl.models import Autoencoder, Denoiser, NoisePredictor

from .fill import fill, noise

NETWORK_BAR = 2e-4
CHAIN_BAR = 2e-3


def assert_close(ours: Tensor, golden: Tensor, bar: float) -> None:
    assert ours.shape == golden.shape
    assert (ours - golden).abs().max().item() <= bar


def size(tag: str) -> tuple[int, int, int, int]:
    h, w = map(int, tag.split("x"))
    return 1, 3, h, w


@pytest.mark.parametrize("name", ["sqrt_etas", "etas", "alpha"])
def test_schedule_tables(goldens: dict[str, Tensor], name: str) -> None:
    ours = getattr(Schedule(), {"sqrt_etas": "sqrt_eta", "etas": "eta"}.get(name, name))
    assert ours.dtype == torch.float64
    assert_close(ours, goldens[f"schedule.{name}"], 1e-6)


def test_schedule_posterior(goldens: dict[str, Tensor]) -> None:
    schedule = Schedule()
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    steps = range(1, 5)
    of_x_t = torch.cat([schedule.posterior_mean(one, zero, t) for t in steps])
    of_x0 = torch.cat([schedule.posterior_mean(zero, one, t) for t in steps])
    variance = torch.tensor([schedule.posterior_std(t) ** 2 for t in steps])
    assert_close(of_x_t, goldens["schedule.posterior_mean_coef1"], 1e-6)
    assert_close(of_x0, goldens["schedule.posterior_mean_coef2"], 1e-6)
    assert_close(variance, goldens["schedule.posterior_variance"], 1e-6)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(("tag", "t_index"), [("64x64", 3), ("64x64", 0), ("64x128", 2)])
def test_denoiser(goldens: dict[str, Tensor], denoiser: Denoiser, tag: str, t_index: int) -> None:
    x, lr = noise(f"in.x_t.{tag}", size(tag)), 0.5 * noise(f"in.lr.{tag}", size(tag))
    assert_close(denoiser(x, t_index, lr), goldens[f"denoiser.{tag}.t{t_index}"], NETWORK_BAR)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(("tag", "t_index"), [("64x64", 3), ("64x64", 0), ("64x128", 2)])
def test_noise_predictor(
    goldens: dict[str, Tensor], noise_predictor: NoisePredictor, tag: str, t_index: int
) -> None:
    x, lr = noise(f"in.x_t.{tag}", size(tag)), 0.5 * noise(f"in.lr.{tag}", size(tag))
    mean, logvar = noise_predictor(x, noise(f"in.x0.{tag}", size(tag)), lr, t_index)
    assert_close(mean, goldens[f"predictor.{tag}.t{t_index}.mean"], NETWORK_BAR)
    assert_close(logvar, goldens[f"predictor.{tag}.t{t_index}.logvar"], NETWORK_BAR)


@pytest.mark.usefixtures("way")
def test_encode(goldens: dict[str, Tensor], autoencoder: Autoencoder) -> None:
    image = torch.tanh(0.5 * noise("in.image", (1, 3, 128, 96)))
    assert_close(autoencoder.encode(image), goldens["vae.encode"], NETWORK_BAR)


@pytest.mark.usefixtures("way")
def test_quantize_and_decode(goldens: dict[str, Tensor], autoencoder: Autoencoder) -> None:
    latent = noise("in.latent", (1, 3, 24, 32))
    assert_close(autoencoder.quantize(latent), goldens["vae.quantize"], 1e-6)
    assert_close(autoencoder.decode(latent), goldens["vae.decode"], NETWORK_BAR)
    assert_close(
        autoencoder.decode(latent, quantize=False), goldens["vae.decode_unquantized"], NETWORK_BAR
    )


class TestChain:
    """Algorithm 2 of the LPNSR paper (sampling), with encoding and decoding. LR is 64x64."""

    @pytest.fixture
    def lr(self) -> Tensor:
        up = F.interpolate(noise("in.lr_image", (1, 3, 16, 16)), size=(64, 64), mode="bicubic")
        return torch.tanh(up)

    @staticmethod
    def golden_noise(kind: str, t: int, shape: torch.Size) -> Tensor:
        return noise("in.z_T" if kind == "init" else f"in.eps.t{t}", shape)

    def test_y0(self, goldens: dict[str, Tensor], autoencoder: Autoencoder, lr: Tensor) -> None:
        y0 = autoencoder.encode(F.interpolate(lr, scale_factor=4, mode="bicubic"))
        assert_close(y0, goldens["chain.y0"], NETWORK_BAR)

    @pytest.mark.parametrize(
        ("name", "steps", "on", "mode"),
        [
            ("steps1.predictor_on", 1, {4, 3, 2}, "sample"),
            ("steps2.predictor_on", 2, {4, 3, 2}, "sample"),
            ("steps3.predictor_on", 3, {4, 3, 2}, "sample"),
            ("steps4.predictor_on", 4, {4, 3, 2}, "sample"),
            ("steps2.predictor_off", 2, set(), "sample"),
            ("steps3.predictor_off", 3, set(), "sample"),
            ("steps4.predictor_off", 4, set(), "sample"),
            ("steps4.predictor_off_at_t4", 4, {3, 2}, "sample"),
            ("steps4.predictor_off_at_t3", 4, {4, 2}, "sample"),
            ("steps4.predictor_off_at_t2", 4, {4, 3}, "sample"),
            ("steps4.predictor_mean", 4, {4, 3, 2}, "mean"),
        ],
    )
    def test_latent(
        self,
        goldens: dict[str, Tensor],
        autoencoder: Autoencoder,
        denoiser: Denoiser,
        noise_predictor: NoisePredictor,
        lr: Tensor,
        name: str,
        steps: int,
        on: set[int],
        mode: str,
    ) -> None:
        x0 = sample(
            denoiser,
            noise_predictor,
            Schedule(),
            goldens["chain.y0"],
            lr,
            steps=steps,
            predictor_on={t: t in on for t in (4, 3, 2)},
            predictor_mode=mode,
            noise=self.golden_noise,
        )
        assert_close(x0, goldens[f"chain.{name}"], CHAIN_BAR)

        if name == "steps4.predictor_on":
            self.check_image(goldens, autoencoder, x0)

    @staticmethod
    def check_image(goldens: dict[str, Tensor], autoencoder: Autoencoder, x0: Tensor) -> None:
        """Compare the decoded images. That of `x0` is compared only if its codes agree with the
        golden ones, since rounding may change the code of a latent between two codes."""
        codes = autoencoder.quantize.codes(x0)
        golden_codes = autoencoder.quantize.codes(goldens["chain.steps4.predictor_on"])
        agree = codes == golden_codes
        assert agree.float().mean() > 0.99
        image = autoencoder.decode(goldens["chain.steps4.predictor_on"]).clamp(-1, 1)
        assert_close(image, goldens["chain.steps4.image"], CHAIN_BAR)
        if agree.all():
            assert_close(
                autoencoder.decode(x0).clamp(-1, 1), goldens["chain.steps4.image"], CHAIN_BAR
            )


class TestStudents:
    """The single sampling step of the one-step students SinSR and RSD."""

    @staticmethod
    def golden_noise(kind: str, t: int, shape: torch.Size) -> Tensor:
        assert t == 15
        return noise({"init": "in.student.z", "plane": "in.student.eps"}[kind], shape)

    def run(self, denoiser: Denoiser, student: StudentConfig) -> Tensor:
        schedule = Schedule(**vars(RESSHIFT_15))
        y0 = noise("in.student.y0", (1, 3, 64, 64))
        lr = 0.5 * noise("in.student.lr", (1, 3, 64, 64))
        return sample_once(denoiser, student, schedule, y0, lr, noise=self.golden_noise)

    def test_sinsr(self, goldens: dict[str, Tensor], denoiser: Denoiser) -> None:
        assert_close(self.run(denoiser, SINSR), goldens["student.sinsr"], NETWORK_BAR)

    def test_rsd(self, goldens: dict[str, Tensor], keys: dict) -> None:
        shapes = {**keys["resshift_denoiser"], "input_blocks.0.0.weight": [160, 7, 3, 3]}
        model = load_model(fill(shapes), DENOISER)
        assert (model.family, model.schedule, model.student) == ("released", RESSHIFT_15, RSD)
        for condition in ("pixel", "latent"):
            ours = self.run(model.network, replace(RSD, condition=condition))
            assert_close(ours, goldens[f"student.rsd.{condition}"], NETWORK_BAR)


def test_wavelet_color_fix(goldens: dict[str, Tensor]) -> None:
    shape = (1, 3, 96, 80)
    sr = 0.5 + 0.5 * torch.tanh(noise("in.cc.sr", shape))
    reference = 0.5 + 0.5 * torch.tanh(noise("in.cc.lr", shape))
    assert_close(wavelet_color_fix(sr, reference), goldens["colorfix.wavelet"], NETWORK_BAR)
