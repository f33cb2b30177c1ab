"""What each training computes: a loss from a batch, and figures for validation.

A batch is {"hr": [B,3,s,s], "lr": [B,3,s/4,s/4]} in [-1,1] and int64 [B] each "index", "crop" and
"turn" (see `Crops`); all noise of a sample is drawn from the seed and its index.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...config import SCALE
from ...engine.noise import seeded_noise
from ...files.checkpoints import check_family, load_autoencoder
from ...files.folders import find_weights
from ...method import sampler
from ...method.sampler import NoiseSource, sample
from ...method.schedule import Schedule
from ...models import Autoencoder, Denoiser, NoisePredictor, UNet
from ...pictures.images import bicubic_upsample, to_01, to_pm1
from .config import TrainConfig
from .data import Crops, Sample
from .fixed_norms import fix_norms
from .losses import ImageLoss
from .networks import load_stepwise_denoiser, make_network
from .teacher import Teacher
from .user_runs import UserRuns

IMAGE_LOSSES = frozenset({"l1", "lpips", "features", "gan", "pyramid", "gradient", "truth"})
COMMITMENT = 0.25
"""Weight of the commitment loss beside the codebook loss (VQ-VAE, beta)."""
FITTED_ON = 48
"""Crops whose statistics become scales and shifts."""


@dataclass
class Losses:
    """Weighted losses by name, and what the discriminator judges."""

    terms: dict[str, Tensor]
    fake: Tensor | None = None
    real: Tensor | None = None


class Task(nn.Module, ABC):
    """Network in training, frozen networks and losses.

    `forward` is one step, so that data-parallel wrappers see one forward for each backward.

    Attributes:
        network: the network in training.
        gan_channels: channels of what the discriminator judges.
        judges_latents: whether that is latents.
        taught: whether a teacher's pictures can stand for HR.
        folder: where it may keep what is costly to make again, or None.

    Raises:
        ValueError: the settings ask for what the task has not.
    """

    gan_channels = 3
    judges_latents = False
    taught = True
    folder: Path | None = None
    part: str = ""  # of the family, where the task has another name
    uses: frozenset[str]  # names of the losses it has
    figures: tuple[str, ...] = ("l1", "minus_psnr")  # what `validate` gives

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        unused = {name for name, weight in vars(config.loss).items() if weight} - self.uses
        if unused:
            raise ValueError(
                f"The task {config.task!r} has no loss {', '.join(sorted(unused))}; it has "
                f"{', '.join(sorted(self.uses))}. Set the others to 0.0."
            )
        if not any(weight for name, weight in vars(config.loss).items() if name != "gan"):
            raise ValueError("loss.gan needs another loss beside it.")
        if config.loss.gan and config.discriminator.features and self.judges_latents:
            raise ValueError(
                f"discriminator.features judges pictures, and the GAN of the task {config.task!r} "
                "latents. Set it to false."
            )
        teacher = config.networks.teacher
        if teacher and not self.taught:
            raise ValueError(f"The task {config.task!r} has no LR pictures for networks.teacher.")
        if config.loss.truth and not teacher:
            raise ValueError("loss.truth stands beside a teacher's losses; give networks.teacher.")
        known = (*self.figures, "niqe") if config.validation_niqe else self.figures
        if config.best not in known:
            raise ValueError(f"best is {config.best!r}, expected one of {', '.join(known)}.")
        self.config = config
        self.network = make_network(config)
        self.image_loss = ImageLoss(config.loss)
        self.has_image_losses = any(getattr(config.loss, name) for name in IMAGE_LOSSES)
        self.teacher = Teacher(find_weights(teacher)) if teacher else None
        self.schedule = Schedule()

    def prepare(self, crops: Crops) -> None:
        """What a new training needs of its pictures before the first step."""

    @abstractmethod
    def forward(self, batch: Sample) -> Losses: ...

    def image_losses(self, image: Tensor, batch: Sample, target: Tensor | None = None) -> Losses:
        """Losses of pictures, [B,3,s,s] in [-1,1].

        Args:
            image: they are of this.
            batch: with "hr", for the truth.
            target: what it is compared with; None is the teacher's picture, or HR without one.
        """
        target = self.target(batch) if target is None else target
        terms = self.image_loss(image, target)
        if self.config.loss.truth:
            terms["truth"] = self.config.loss.truth * F.l1_loss(image, batch["hr"])
        return Losses(terms, fake=image, real=target)

    def target(self, batch: Sample) -> Tensor:
        """The teacher's pictures of LR, kept in `folder` where crops are used more than once; HR
        without a teacher. [B,3,s,s] in [-1,1]"""
        if self.teacher is None:
            return batch["hr"]
        if self.folder is None or self.config.reuse == 1:
            return self.teacher(batch["lr"])
        return self.teacher.remember(batch, self.folder / "teacher")

    @abstractmethod
    def validate(self, network: nn.Module, batch: Sample) -> tuple[dict[str, float], Tensor]:
        """Figures of `network` (the averaged weights), lower being better, and its pictures
        [B,3,H,W] in [-1,1]."""

    def noise(self, batch: Sample) -> NoiseSource:
        """The noise of each sample, [B,C,h,w]."""
        rngs = [np.random.default_rng([self.config.seed, int(i), 3]) for i in batch["index"]]
        steps = self.schedule.num_timesteps
        sources = [seeded_noise(int(rng.integers(2**63)), steps) for rng in rngs]
        return lambda kind, t, shape: torch.cat(
            [source(kind, t, torch.Size((1, *shape[1:]))) for source in sources]
        )


def figures_of(image: Tensor, hr: Tensor) -> dict[str, float]:
    """L1 in [-1,1], and minus PSNR in dB over all channels of each picture."""
    mse = (to_01(image) - to_01(hr)).square().mean(dim=(1, 2, 3))
    return {
        "l1": float(F.l1_loss(image.clamp(-1, 1), hr)),
        "minus_psnr": float((10 * torch.log10(mse)).mean()),
    }


class AutoencoderTask(Task):
    """VQ autoencoder: reconstruction, and codes that follow the latents."""

    network: Autoencoder
    taught = False
    uses = IMAGE_LOSSES | {"codebook"}
    figures = ("l1", "minus_psnr", "code")

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        if not config.loss.codebook:
            self.network.quantize.requires_grad_(False)

    def prepare(self, crops: Crops) -> None:
        """Without norms, where the file that it starts from has them: fit what stands for them."""
        init = self.config.networks.init
        if init and not self.network.config.norm_groups:
            given = load_autoencoder(find_weights(init))
            if given.config.norm_groups:
                fix_norms(given, self.network, (crops[i]["hr"][None] for i in range(FITTED_ON)))

    def forward(self, batch: Sample) -> Losses:
        """Encode, quantise (straight through), decode."""
        hr = batch["hr"]
        z = self.network.encode(hr)
        z_q = self.network.quantize(z)
        image = self.network.decode(z + (z_q - z).detach(), quantize=False)
        terms = self.image_loss(image, hr)
        if self.config.loss.codebook:
            distance = F.mse_loss(z_q, z.detach()) + COMMITMENT * F.mse_loss(z, z_q.detach())
            terms["codebook"] = self.config.loss.codebook * distance
        return Losses(terms, fake=image, real=hr)

    def validate(self, network: nn.Module, batch: Sample) -> tuple[dict[str, float], Tensor]:
        """Error of the reconstruction, and of codes from latents."""
        assert isinstance(network, Autoencoder)
        z = network.encode(batch["hr"])
        image = network.decode(z)
        return {
            **figures_of(image, batch["hr"]),
            "code": float(F.mse_loss(network.quantize(z), z)),
        }, image


class LatentTask(Task):
    """Common to denoiser and noise predictor: a frozen autoencoder, and latents of both ends."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        name = config.networks.autoencoder
        if not name:
            raise ValueError("networks.autoencoder is empty; training this needs one.")
        self.autoencoder = load_autoencoder(find_weights(name))

    def chain(
        self,
        denoiser: sampler.Denoiser,
        noise_predictor: sampler.NoisePredictor | None,
        batch: Sample,
        y0: Tensor,
    ) -> Tensor:
        """x0_pred of all steps, the predictor on at each if there is one. [B,C,h,w]"""
        steps = self.schedule.num_timesteps
        on = dict.fromkeys(range(2, steps + 1), noise_predictor is not None)
        return sample(
            denoiser,
            noise_predictor,
            self.schedule,
            y0,
            batch["lr"],
            steps=steps,
            predictor_on=on,
            noise=self.noise(batch),
        )

    def check_crops(self, *networks: UNet) -> None:
        """Check that latents of the crops fit the windows of networks.

        Raises:
            ValueError: one does not.
        """
        multiple = SCALE * max(network.config.tile_multiple for network in networks)
        for name in ("crop", "validation_crop"):
            if getattr(self.config, name) % multiple:
                raise ValueError(
                    f"{name} is {getattr(self.config, name)}, expected a multiple of {multiple}, "
                    "so that the windows of these networks fit."
                )

    def upsampled(self, batch: Sample) -> Tensor:
        """LR at the size of HR, which the chain starts from: bicubic x4. [B,3,s,s]"""
        return bicubic_upsample(batch["lr"])

    @torch.no_grad()
    def latents(self, batch: Sample, picture: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x0 = encode(picture), HR if there is none, and y0 = encode(upsampled lr). [B,C,h,w]"""
        picture = batch["hr"] if picture is None else picture
        both = torch.cat([picture, self.upsampled(batch)])
        x0, y0 = self.autoencoder.encode(both).chunk(2)
        return x0, y0

    def decoded(self, x0_pred: Tensor) -> Tensor:
        """The picture that users get, straight through the quantiser. [B,3,s,s]"""
        codes = x0_pred + (self.autoencoder.quantize(x0_pred) - x0_pred).detach()
        return self.autoencoder.decode(codes, quantize=False)

    def diffused(self, batch: Sample, x0: Tensor, y0: Tensor, t: Tensor) -> Tensor:
        """x_t of Eq. 2 with a step t for each sample. [B,C,h,w]"""
        eps = self.noise(batch)("init", 0, x0.shape).to(x0)
        states = [self.schedule.q_sample(x0[i], y0[i], int(t_i), eps[i]) for i, t_i in enumerate(t)]
        return torch.stack(states)

    def scaled(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Each sample as the denoiser sees it."""
        return torch.stack(
            [self.schedule.scale_input(x, int(t_i)) for x, t_i in zip(x_t, t, strict=True)]
        )


class DenoiserTask(LatentTask):
    """ResShift's objective: x0 from q(x_t | x0, y0), t uniform over 1...T.

    A part `rollout` of the steps has image losses instead, of the last step of chains that the
    network runs by itself, so that it learns to mend what it leaves in x_1.
    """

    network: Denoiser
    uses = IMAGE_LOSSES | {"latent"}
    figures = ("l1", "minus_psnr", "latent", *(f"latent_t{t}" for t in range(1, 5)))

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.schedule = Schedule(**vars(self.network.schedule))
        self.check_crops(self.network)
        if self.has_image_losses != (config.rollout > 0):
            no = "" if self.has_image_losses else "no "
            raise ValueError(
                f"rollout is {config.rollout} and there are {no}image losses; a denoiser's "
                "image losses are those of rollouts. Set both or none."
            )
        self.user = None
        if config.rollout:
            self.user = UserRuns(config.networks, self.autoencoder, self.network)

    def forward(self, batch: Sample) -> Losses:
        """Squared error of x0_pred, or image losses of rollouts."""
        if self._rolls(batch):
            return self._rolled(batch)
        x0, y0 = self.latents(batch, self.target(batch))
        t = batch["index"] % self.schedule.num_timesteps + 1
        x0_pred = self._predict(self.network, batch, x0, y0, t)
        return Losses({"latent": self.config.loss.latent * F.mse_loss(x0_pred, x0)})

    def _rolls(self, batch: Sample) -> bool:
        """The same for all samples of a step, so that several processes do the same."""
        step = int(batch["index"][0]) // self.config.batch
        rng = np.random.default_rng([self.config.seed, step, 7])
        return bool(rng.random() < self.config.rollout)

    def _rolled(self, batch: Sample) -> Losses:
        assert self.user is not None
        ends: list[Tensor] = []
        for index, lr in zip(batch["index"], batch["lr"].split(1), strict=True):
            rng = np.random.default_rng([self.config.seed, int(index), 8])
            ends.append(self.user.run(self._last_alone, lr, rng))
        image = self.decoded(torch.cat(ends))
        return self.image_losses(image, batch)

    def _last_alone(self, x: Tensor, t_index: int, lr: Tensor) -> Tensor:
        """The network, learning at t = 1 alone."""
        with torch.set_grad_enabled(t_index == 0 and torch.is_grad_enabled()):
            return self.network(x, t_index, lr)

    def _predict(
        self, network: nn.Module, batch: Sample, x0: Tensor, y0: Tensor, t: Tensor
    ) -> Tensor:
        x_t = self.diffused(batch, x0, y0, t)
        return network(self.scaled(x_t, t), t - 1, batch["lr"])

    def validate(self, network: nn.Module, batch: Sample) -> tuple[dict[str, float], Tensor]:
        """Squared error of x0_pred at each t, their mean, and pictures of the whole chain."""
        x0, y0 = self.latents(batch)
        figures: dict[str, float] = {}
        for step in range(1, self.schedule.num_timesteps + 1):
            t = torch.full_like(batch["index"], step)
            x0_pred = self._predict(network, batch, x0, y0, t)
            figures[f"latent_t{step}"] = float(F.mse_loss(x0_pred, x0))
        figures["latent"] = sum(figures.values()) / len(figures)
        assert isinstance(network, Denoiser)
        image = self.autoencoder.decode(self.chain(network, None, batch, y0))
        return {**figures, **figures_of(image, batch["hr"])}, image


class NoisePredictorTask(LatentTask):
    """Algorithm 1: through the whole chain and the decoder to the picture (Eq. 10-12).

    With `loss.noise`, also or instead: regression on the optimal noise of Eq. 9, one step at a
    time, from x_t ~ q(x_t | x0, y0).
    """

    network: NoisePredictor
    judges_latents = True
    uses = IMAGE_LOSSES | {"noise"}
    figures = ("l1", "minus_psnr", *(f"noise_t{t}" for t in range(2, 5)))

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        name = config.networks.denoiser
        if not name:
            raise ValueError("networks.denoiser is empty; training a noise predictor needs one.")
        self.denoiser = load_stepwise_denoiser(find_weights(name))
        check_family(self.autoencoder, self.denoiser, None)
        self.network.schedule = self.denoiser.schedule
        self.schedule = Schedule(**vars(self.denoiser.schedule))
        self.check_crops(self.denoiser, self.network)
        self.gan_channels = self.denoiser.config.out_channels
        self.start = Teacher(find_weights(config.networks.start)) if config.networks.start else None

    def upsampled(self, batch: Sample) -> Tensor:
        """Bicubic x4; with `networks.start`, half of them by that upscale model (PreSet-B)."""
        pictures = super().upsampled(batch)
        if self.start is not None:
            for i, index in enumerate(batch["index"]):
                if np.random.default_rng([self.config.seed, int(index), 6]).random() < 0.5:
                    pictures[i] = self.start(batch["lr"][i : i + 1])[0]
        return pictures

    def forward(self, batch: Sample) -> Losses:
        """The chain from t = T with the predictor on at every step."""
        x0, y0 = self.latents(batch, self.target(batch))
        losses = Losses({})
        if self.has_image_losses:
            x0_pred = self._chain(self.network, batch, y0)
            image = self._recomputed(self.decoded, x0_pred)
            losses = replace(self.image_losses(image, batch), fake=x0_pred, real=x0)
        if self.config.loss.noise:
            t = batch["index"] % (self.schedule.num_timesteps - 1) + 2
            losses.terms["noise"] = self.config.loss.noise * self._noise_loss(batch, x0, y0, t)
        return losses

    def _chain(self, network: nn.Module, batch: Sample, y0: Tensor) -> Tensor:
        denoiser = partial(self._recomputed, self.denoiser)
        return self.chain(denoiser, partial(self._recomputed, network), batch, y0)

    def _recomputed(self, function: Callable[..., Any], *inputs: Any) -> Any:
        if self.config.checkpointing and torch.is_grad_enabled():
            return checkpoint(function, *inputs, use_reentrant=False)
        return function(*inputs)

    def _noise_loss(self, batch: Sample, x0: Tensor, y0: Tensor, t: Tensor) -> Tensor:
        """Negative log-likelihood of z*, a mean over the latent's elements, less its constant."""
        mean, logvar, z = self._regress(self.network, batch, x0, y0, t)
        return (logvar + (z - mean).square() * torch.exp(-logvar)).mean() / 2

    def _regress(
        self, network: nn.Module, batch: Sample, x0: Tensor, y0: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predicted mean and log-variance, and the optimal noise, [B,C,h,w] each."""
        x_t = self.diffused(batch, x0, y0, t)
        with torch.no_grad():
            x0_pred = self.denoiser(self.scaled(x_t, t), t - 1, batch["lr"])
        z = torch.stack(
            [
                self.schedule.optimal_noise(x0[i], y0[i], x_t[i], x0_pred[i], int(t_i))
                for i, t_i in enumerate(t)
            ]
        )
        mean, logvar = network(x_t, x0_pred, batch["lr"], t - 1)
        return mean, logvar, z

    def validate(self, network: nn.Module, batch: Sample) -> tuple[dict[str, float], Tensor]:
        """Error of the chain's picture, and of the predicted mean from z* at each t, relative to
        the power of z* (1: no better than mean 0)."""
        x0, y0 = self.latents(batch)
        image = self.autoencoder.decode(self._chain(network, batch, y0))
        figures = figures_of(image, batch["hr"])
        for step in range(2, self.schedule.num_timesteps + 1):
            t = torch.full_like(batch["index"], step)
            mean, _, z = self._regress(network, batch, x0, y0, t)
            figures[f"noise_t{step}"] = float((mean - z).square().mean() / z.square().mean())
        return figures, image


class CompactTask(Task):
    """A regressor for PreSet-B's start, in an architecture that spandrel loads."""

    uses = IMAGE_LOSSES
    figures = ("l1", "minus_psnr", "bicubic_l1")

    def forward(self, batch: Sample) -> Losses:
        """Image losses."""
        return self.image_losses(self._upscale(self.network, batch), batch)

    def _upscale(self, network: nn.Module, batch: Sample) -> Tensor:
        return to_pm1(network(to_01(batch["lr"])))

    def validate(self, network: nn.Module, batch: Sample) -> tuple[dict[str, float], Tensor]:
        """Error of the picture, and of bicubic for comparison."""
        image = self._upscale(network, batch)
        bicubic = figures_of(bicubic_upsample(batch["lr"]), batch["hr"])
        figures = figures_of(image, batch["hr"])
        return {**figures, "bicubic_l1": bicubic["l1"]}, image
