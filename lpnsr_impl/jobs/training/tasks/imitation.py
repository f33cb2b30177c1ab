"""Training of a denoiser or noise predictor to give the outputs of another one."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import default_collate

from ....files.folders import find_weights
from ....method.schedule import Schedule
from ....models import Denoiser, NoisePredictor
from ..config import TrainConfig
from ..data import Crops, Sample
from ..fixed_norms import FITTED_ON, fix_norms
from ..networks import load_stepwise_denoiser, load_unet
from ..user_runs import UserRuns
from .latent_task import LatentTask
from .task import Losses, figures_of

_LOGVAR = (-8.0, 8.0)
"""Log-variances are compared in this range: below it, the noise that is drawn does not show."""


class ImitationTask(LatentTask):
    """Squared error to the outputs of `networks.init` at every step of chains as users run them.

    The network starts from its weights, with fixed norms where `size.norm_groups` is 0.
    """

    network: Denoiser | NoisePredictor
    taught = False
    uses = frozenset({"imitation"})
    figures = ("l1", "minus_psnr", "imitation")

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.original = load_unet(find_weights(config.networks.init))
        self.schedule = Schedule(**vars(self.original.schedule))
        names = config.networks
        if isinstance(self.original, Denoiser):
            self.part = "denoiser"
            self.denoiser = self.original
            self.user = UserRuns(names, self.autoencoder, self.denoiser)
        else:
            self.part = "noise_predictor"
            if not names.denoiser:
                raise ValueError("networks.denoiser is empty; imitating a predictor needs one.")
            self.denoiser = load_stepwise_denoiser(find_weights(names.denoiser))
            self.user = UserRuns(names, self.autoencoder, self.denoiser, self.original)
        self.check_crops(self.original)

    def prepare(self, crops: Crops) -> None:
        """Set fixed norms to the average statistics of the original's."""
        if self.original.config.norm_groups and not self.network.config.norm_groups:

            def run() -> None:
                for i in range(FITTED_ON):
                    self._calls(default_collate([crops[i]]))

            fix_norms(self.original, self.network, run)

    def forward(self, batch: Sample) -> Losses:
        """One chain for each sample; all its steps are learnt at once."""
        return Losses({"imitation": self.config.loss.imitation * self._error(self.network, batch)})

    def _error(self, network: nn.Module, batch: Sample) -> Tensor:
        inputs, outputs = zip(*self._calls(batch), strict=True)
        arguments = [_join(values) for values in zip(*inputs, strict=True)]
        wanted = torch.cat([_to_tensor(output) for output in outputs])
        return F.mse_loss(_to_tensor(network(*arguments)), wanted)

    @torch.no_grad()
    def _calls(self, batch: Sample) -> list[tuple[tuple[Any, ...], Any]]:
        """Arguments and result of each call of the original, in one chain for each sample."""
        calls: list[tuple[tuple[Any, ...], Any]] = []
        hook = self.original.register_forward_hook(
            lambda _, inputs, output: calls.append((inputs, output))
        )
        for index, lr in zip(batch["index"], batch["lr"].split(1), strict=True):
            rng, before = np.random.default_rng([self.config.seed, int(index), 8]), len(calls)
            while len(calls) == before:  # a chain may do without the noise predictor
                self.user.run(self.denoiser, lr, rng)
        hook.remove()
        return calls

    def validate(self, network: nn.Module, batch: Sample) -> tuple[dict[str, float], Tensor]:
        """Error to the original, and pictures of the chain with `network` in place of it."""
        denoiser, predictor = self.denoiser, self.user.noise_predictor
        if self.part == "denoiser":
            denoiser = network
        else:
            predictor = network
        _, y0 = self.latents(batch)
        image = self.autoencoder.decode(self.chain(denoiser, predictor, batch, y0))
        error = float(self._error(network, batch))
        return {"imitation": error, **figures_of(image, batch["hr"])}, image


def _join(values: tuple[Any, ...]) -> Tensor:
    """A batch of tensors, or of numbers."""
    return torch.cat(values) if isinstance(values[0], Tensor) else torch.tensor(values)


def _to_tensor(output: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """x0_pred, or mean and log-variance as channels of one tensor."""
    if isinstance(output, Tensor):
        return output
    mean, logvar = output
    return torch.cat([mean, logvar.clamp(*_LOGVAR)], dim=1)
