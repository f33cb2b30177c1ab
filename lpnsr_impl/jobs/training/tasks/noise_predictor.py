"""Training of the noise predictor (Algorithm 1 of the LPNSR paper)."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ....files.checkpoints import check_family
from ....files.folders import find_weights
from ....method.schedule import Schedule
from ....models import NoisePredictor
from ..config import TrainConfig
from ..data import Sample
from ..networks import load_stepwise_denoiser
from ..teacher import Teacher
from .latent_task import LatentTask
from .task import IMAGE_LOSSES, Losses, measure


class NoisePredictorTask(LatentTask):
    """Trains a noise predictor end to end through sampling and decoding (paper, Eq. 10-12).

    The discriminator scores latents, as in the paper, or images with `discriminator.features`.

    `loss.noise` trains it to predict the optimal noise (paper, Eq. 9) at a single step, from
    x_t ~ q(x_t | x0, y0). `loss.noise` may be the only loss.
    """

    network: NoisePredictor
    supported_losses = IMAGE_LOSSES | {"noise"}
    metrics = ("l1", "minus_psnr", *(f"noise_t{t}" for t in range(2, 5)))

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        name = config.networks.denoiser
        if not name:
            raise ValueError(
                "networks.denoiser is empty, but training a noise predictor needs a denoiser."
            )
        denoiser = load_stepwise_denoiser(find_weights(name))
        check_family(self.autoencoder_model, denoiser, None)
        self.model = replace(self.model, schedule=denoiser.schedule)
        self.schedule = Schedule(**vars(denoiser.schedule))
        self.denoiser = denoiser.network
        self.check_crops(self.denoiser, self.network)
        self.judges_latents = not config.discriminator.features
        if self.judges_latents:
            self.gan_channels = self.denoiser.config.out_channels
        self.start = Teacher(find_weights(config.networks.start)) if config.networks.start else None

    def upsample(self, batch: Sample) -> Tensor:
        """Upsample LR to [B,3,s,s] by bicubic interpolation.

        If `networks.start` is set, this upscale model upsamples half of the samples, chosen at
        random, instead (as in PreSet-B).
        """
        pictures = super().upsample(batch)
        if self.start is not None:
            for i, index in enumerate(batch["index"]):
                if np.random.default_rng([self.config.seed, int(index), 6]).random() < 0.5:
                    pictures[i] = self.start(batch["lr"][i : i + 1])[0]
        return pictures

    def forward(self, batch: Sample) -> Losses:
        """Compute the image losses after all sampling steps, and the noise loss at one step."""
        x0, y0 = self.encode_latents(batch, self.target(batch))
        losses = Losses({})
        if self.has_image_losses:
            x0_pred = self._run_chain(self.network, batch, y0)
            image = self._checkpoint(self.decode_quantized, x0_pred)
            losses = self.image_losses(image, batch)
            if self.judges_latents:
                losses = replace(losses, fake=x0_pred, real=x0)
        if self.config.loss.noise:
            t = batch["index"] % (self.schedule.num_timesteps - 1) + 2
            losses.terms["noise"] = self.config.loss.noise * self._noise_loss(batch, x0, y0, t)
        return losses

    def _run_chain(self, network: nn.Module, batch: Sample, y0: Tensor) -> Tensor:
        denoiser = partial(self._checkpoint, self.denoiser)
        return self.run_chain(denoiser, partial(self._checkpoint, network), batch, y0)

    def _checkpoint(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """Call a function, with gradient checkpointing if the config enables it."""
        if self.config.checkpointing and torch.is_grad_enabled():
            return checkpoint(function, *inputs, use_reentrant=False)
        return function(*inputs)

    def _noise_loss(self, batch: Sample, x0: Tensor, y0: Tensor, t: Tensor) -> Tensor:
        """Mean negative log-likelihood of the optimal noise, without its constant term."""
        mean, logvar, z = self._regress(self.network, batch, x0, y0, t)
        return (logvar + (z - mean).square() * torch.exp(-logvar)).mean() / 2

    def _regress(
        self, network: nn.Module, batch: Sample, x0: Tensor, y0: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predict the noise at a single step t [B] for each sample.

        Returns:
            Predicted mean, predicted log-variance, and the optimal noise z* (paper, Eq. 9), each
            [B,C,h,w].
        """
        x_t = self.diffuse(batch, x0, y0, t)
        with torch.no_grad():
            x0_pred = self.denoiser(self.scale_inputs(x_t, t), t - 1, batch["lr"])
        z = torch.stack(
            [
                self.schedule.optimal_noise(x0[i], y0[i], x_t[i], x0_pred[i], int(t_i))
                for i, t_i in enumerate(t)
            ]
        )
        mean, logvar = network(x_t, x0_pred, batch["lr"], t - 1)
        return mean, logvar, z

    def validate(self, network: nn.Module, batch: Sample) -> tuple[dict[str, float], Tensor]:
        """Measure the sampled image, and the predicted mean of the noise at each t.

        "noise_t..." is the mean squared error between the predicted mean and the optimal noise z*
        (paper, Eq. 9), divided by the mean square of z*. Predicting 0 gives 1.
        """
        x0, y0 = self.encode_latents(batch)
        image = self.autoencoder.decode(self._run_chain(network, batch, y0))
        metrics = measure(image, batch["hr"])
        for step in range(2, self.schedule.num_timesteps + 1):
            t = torch.full_like(batch["index"], step)
            mean, _, z = self._regress(network, batch, x0, y0, t)
            metrics[f"noise_t{step}"] = float((mean - z).square().mean() / z.square().mean())
        return metrics, image
