"""Training of the denoiser, ResShift's."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....models import Denoiser
from ..config import TrainConfig
from ..data import Sample
from ..user_runs import UserRuns
from .latent_task import LatentTask
from .task import IMAGE_LOSSES, Losses, figures_of


class DenoiserTask(LatentTask):
    """ResShift's objective: x0 from q(x_t | x0, y0), t uniform over 1...T.

    A part `rollout` of the steps has image losses instead, of the last step of chains that the
    network runs by itself, so that it learns to mend what it leaves in x_1.
    """

    network: Denoiser
    uses = IMAGE_LOSSES | {"latent"}
    options = frozenset({"rollout"})
    figures = ("l1", "minus_psnr", "latent", *(f"latent_t{t}" for t in range(1, 5)))

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.check_crops(self.network)
        if self.has_image_losses != (config.rollout > 0):
            no = "" if self.has_image_losses else "no "
            raise ValueError(
                f"rollout is {config.rollout} and there are {no}image losses; a denoiser's "
                "image losses are those of rollouts. Set both or none."
            )
        self.user = None
        if config.rollout:
            self.user = UserRuns(config.networks, self.autoencoder_model, self.model)

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
        together = self.config.together
        first = batch["index"][::together]
        for index, lr in zip(first, batch["lr"].split(together), strict=True):
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
