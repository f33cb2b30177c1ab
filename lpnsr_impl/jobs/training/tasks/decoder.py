"""Training of an autoencoder's decoder with a frozen encoder and codebook.

The latents stay the same, so denoisers and noise predictors that were trained on them still fit.
"""

import os

import numpy as np
import torch
from torch import Tensor, nn

from ....files.folders import find_weights
from ....models import Autoencoder
from ..config import TrainConfig
from ..data import Sample, undo_turn
from ..networks import load_stepwise_denoiser
from ..random_inference import RandomInference
from .task import IMAGE_LOSSES, Losses, Task, measure


class DecoderTask(Task):
    """Trains a decoder on latents of HR and on latents sampled from LR.

    With probability `chain`, a crop's latents are sampled from LR by `RandomInference`; otherwise,
    they are encoded from HR. If crops are used more than once, the sampled latents are cached in
    `folder`, and crops are not flipped or rotated, since encoding a rotated picture does not just
    rotate its latents.
    """

    network: Autoencoder
    supported_losses = IMAGE_LOSSES
    supported_options = frozenset({"chain"})
    metrics = ("l1", "minus_psnr", "round_trip_l1", "round_trip_minus_psnr")

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        names = config.networks
        if not names.init:
            raise ValueError(
                "networks.init is empty, expected an autoencoder whose decoder is to be trained."
            )
        for frozen in (self.network.encoder, self.network.quant_conv, self.network.quantize):
            frozen.requires_grad_(False)
        self.denoiser = self.inference = None
        if config.chain:
            if not names.denoiser:
                raise ValueError(
                    f"chain is {config.chain}, but there is no denoiser to sample latents. Give "
                    "networks.denoiser, or set chain=0.0."
                )
            denoiser = load_stepwise_denoiser(find_weights(names.denoiser))
            self.denoiser = denoiser.network
            self.inference = RandomInference(names, self.model, denoiser)

    def forward(self, batch: Sample) -> Losses:
        """Encode or sample latents, quantise and decode them, and compute the image losses."""
        if self.config.reuse > 1:
            batch = undo_turns(batch)
        latents, targets = list[Tensor](), list[Tensor]()
        with torch.no_grad():
            for i in range(len(batch["hr"])):
                sample = {key: x[i : i + 1] for key, x in batch.items()}
                rng = np.random.default_rng([self.config.seed, int(sample["crop"]), 5])
                if rng.random() < self.config.chain:
                    latents.append(self._sample_cached(sample, rng))
                    targets.append(self.target(sample))
                else:
                    latents.append(self.network.encode(sample["hr"]))
                    targets.append(sample["hr"])
            codes = self.network.quantize(torch.cat(latents))
        image = self.network.decode(codes, quantize=False)
        return self.image_losses(image, batch, torch.cat(targets))

    def _sample_cached(self, batch: Sample, rng: np.random.Generator) -> Tensor:
        """Sample x0 [1,C,h,w] of one crop from LR. If crops are reused, x0 is cached in a file."""
        if self.folder is None or self.config.reuse == 1:
            return self._sample(batch, rng)
        path = self.folder / "latents" / f"{int(batch['crop']):07}.pt"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}.part")
            torch.save(self._sample(batch, rng).cpu(), part)
            part.replace(path)
        return torch.load(path, map_location=batch["hr"].device, weights_only=True)

    def _sample(self, batch: Sample, rng: np.random.Generator) -> Tensor:
        assert self.inference is not None
        assert self.denoiser is not None
        return self.inference.run(self.denoiser, batch["lr"], rng)

    def validate(self, network: nn.Module, batch: Sample) -> tuple[dict[str, float], Tensor]:
        """Measure the reconstruction of HR ("round_trip_...") and the image sampled from LR.

        If `chain` is 0, nothing is sampled, and both are measured on the reconstruction.
        """
        assert isinstance(network, Autoencoder)
        image = network.decode(network.encode(batch["hr"]))
        round_trip = measure(image, batch["hr"])
        metrics = {f"round_trip_{name}": value for name, value in round_trip.items()}
        if self.denoiser:
            rng = np.random.default_rng([self.config.seed, int(batch["crop"]), 6])
            image = network.decode(self._sample(batch, rng))
        return {**metrics, **measure(image, batch["hr"])}, image


def undo_turns(batch: Sample) -> Sample:
    """Undo the flips and rotations of a batch."""
    turns = [int(turn) for turn in batch["turn"]]
    pictures = {
        key: torch.stack([undo_turn(x, turn) for x, turn in zip(batch[key], turns, strict=True)])
        for key in ("hr", "lr")
    }
    return {**batch, **pictures, "turn": torch.zeros_like(batch["turn"])}
