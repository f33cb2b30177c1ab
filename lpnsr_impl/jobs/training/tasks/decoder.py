"""Training of the autoencoder's decoder alone, also on latents as the chain makes them.

Encoder and codes stay, so denoisers and noise predictors of these latents do.
"""

import os

import numpy as np
import torch
from torch import Tensor, nn

from ....files.folders import find_weights
from ....models import Autoencoder
from ..config import TrainConfig
from ..data import Sample, turned_back
from ..networks import load_stepwise_denoiser
from ..user_runs import UserRuns
from .task import IMAGE_LOSSES, Losses, Task, figures_of


class DecoderTask(Task):
    """HR from latents that stay as they are: those that the encoder makes of HR and, for a part
    `chain` of the crops, those that the frozen chain makes of LR, in ways that vary.

    Where crops are used more than once, the chain's latents are kept in `folder`, and not turned,
    since the latent of a turned picture is another one.
    """

    network: Autoencoder
    uses = IMAGE_LOSSES
    options = frozenset({"chain"})
    figures = ("l1", "minus_psnr", "round_trip_l1", "round_trip_minus_psnr")

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        names = config.networks
        if not names.init:
            raise ValueError("networks.init is empty; a decoder is trained for latents that exist.")
        for fixed in (self.network.encoder, self.network.quant_conv, self.network.quantize):
            fixed.requires_grad_(False)
        self.denoiser = self.user = None
        if config.chain:
            if not names.denoiser:
                raise ValueError("chain is above 0; give networks.denoiser.")
            denoiser = load_stepwise_denoiser(find_weights(names.denoiser))
            self.denoiser = denoiser.network
            self.user = UserRuns(names, self.model, denoiser)

    def forward(self, batch: Sample) -> Losses:
        """Image losses of what the decoder makes of codes."""
        if self.config.reuse > 1:
            batch = upright(batch)
        latents, targets = list[Tensor](), list[Tensor]()
        with torch.no_grad():
            for i in range(len(batch["hr"])):
                sample = {key: x[i : i + 1] for key, x in batch.items()}
                rng = np.random.default_rng([self.config.seed, int(sample["crop"]), 5])
                if rng.random() < self.config.chain:
                    latents.append(self._latent(sample, rng))
                    targets.append(self.target(sample))
                else:
                    latents.append(self.network.encode(sample["hr"]))
                    targets.append(sample["hr"])
            codes = self.network.quantize(torch.cat(latents))
        image = self.network.decode(codes, quantize=False)
        return self.image_losses(image, batch, torch.cat(targets))

    def _latent(self, batch: Sample, rng: np.random.Generator) -> Tensor:
        """x0 that the chain makes of one crop, [1,C,h,w]."""
        if self.folder is None or self.config.reuse == 1:
            return self._run(batch, rng)
        kept = self.folder / "latents" / f"{int(batch['crop']):07}.pt"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            part = kept.with_suffix(f".{os.getpid()}.part")
            torch.save(self._run(batch, rng).cpu(), part)
            part.replace(kept)
        return torch.load(kept, map_location=batch["hr"].device, weights_only=True)

    def _run(self, batch: Sample, rng: np.random.Generator) -> Tensor:
        assert self.user is not None
        assert self.denoiser is not None
        return self.user.run(self.denoiser, batch["lr"], rng)

    def validate(self, network: nn.Module, batch: Sample) -> tuple[dict[str, float], Tensor]:
        """Errors of the round trip, and of the chain's picture, or without a chain of the same."""
        assert isinstance(network, Autoencoder)
        image = network.decode(network.encode(batch["hr"]))
        round_trip = figures_of(image, batch["hr"])
        figures = {f"round_trip_{name}": value for name, value in round_trip.items()}
        if self.denoiser:
            rng = np.random.default_rng([self.config.seed, int(batch["crop"]), 6])
            image = network.decode(self._run(batch, rng))
        return {**figures, **figures_of(image, batch["hr"])}, image


def upright(batch: Sample) -> Sample:
    """A batch as it was before it was turned."""
    turns = [int(turn) for turn in batch["turn"]]
    pictures = {
        key: torch.stack([turned_back(x, turn) for x, turn in zip(batch[key], turns, strict=True)])
        for key in ("hr", "lr")
    }
    return {**batch, **pictures, "turn": torch.zeros_like(batch["turn"])}
