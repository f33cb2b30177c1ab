"""Base class for training the networks that work on latents: denoiser and noise predictor."""

import torch
from torch import Tensor

from ....config import SCALE
from ....files.checkpoints import AUTOENCODER, load_model
from ....files.folders import find_weights
from ....method import sampler
from ....method.sampler import sample
from ....models import UNet
from ....pictures.images import bicubic_upsample
from ..config import TrainConfig
from ..data import Sample
from .task import Task


class LatentTask(Task):
    """A task with a frozen autoencoder, which encodes the target and the upsampled LR."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        name = config.networks.autoencoder
        if not name:
            raise ValueError(
                f"networks.autoencoder is empty, but the task {config.task!r} needs an autoencoder."
            )
        self.autoencoder_model = load_model(find_weights(name), AUTOENCODER)
        self.autoencoder = self.autoencoder_model.network

    def run_chain(
        self,
        denoiser: sampler.Denoiser,
        noise_predictor: sampler.NoisePredictor | None,
        batch: Sample,
        y0: Tensor,
    ) -> Tensor:
        """Run all sampling steps, with the noise predictor if given. Returns x0_pred [B,C,h,w]."""
        steps = self.schedule.num_timesteps
        predictor_on = dict.fromkeys(range(2, steps + 1), noise_predictor is not None)
        return sample(
            denoiser,
            noise_predictor,
            self.schedule,
            y0,
            batch["lr"],
            steps=steps,
            predictor_on=predictor_on,
            noise=self.noise(batch),
        )

    def check_crops(self, *networks: UNet) -> None:
        """Check that the crop sizes are multiples of the size that the attention windows need.

        Raises:
            ValueError: a crop size is not a multiple of this size.
        """
        multiple = SCALE * max(network.config.tile_multiple for network in networks)
        for name in ("crop", "validation_crop"):
            if getattr(self.config, name) % multiple:
                raise ValueError(
                    f"{name} is {getattr(self.config, name)}, expected a multiple of {multiple}, "
                    "which the attention windows of these networks need."
                )

    def upsample(self, batch: Sample) -> Tensor:
        """Upsample LR to [B,3,s,s] by bicubic interpolation. Sampling starts from the result."""
        return bicubic_upsample(batch["lr"])

    @torch.no_grad()
    def encode_latents(self, batch: Sample, target: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encode `target` (None for HR) to x0, and the upsampled LR to y0, both [B,C,h,w]."""
        target = batch["hr"] if target is None else target
        both = torch.cat([target, self.upsample(batch)])
        x0, y0 = self.autoencoder.encode(both).chunk(2)
        return x0, y0

    def decode_quantized(self, x0_pred: Tensor) -> Tensor:
        """Quantise with a straight-through gradient, and decode.

        x0_pred: [B,C,h,w] -> image [B,3,s,s]
        """
        codes = x0_pred + (self.autoencoder.quantize(x0_pred) - x0_pred).detach()
        return self.autoencoder.decode(codes, quantize=False)

    def diffuse(self, batch: Sample, x0: Tensor, y0: Tensor, t: Tensor) -> Tensor:
        """Draw x_t from q(x_t | x0, y0) (paper, Eq. 2).

        x0, y0: [B,C,h,w]; t: [B], the step of each sample -> x_t: [B,C,h,w]
        """
        eps = self.noise(batch)("init", 0, x0.shape).to(x0)
        states = [self.schedule.q_sample(x0[i], y0[i], int(t_i), eps[i]) for i, t_i in enumerate(t)]
        return torch.stack(states)

    def scale_inputs(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Scale x_t as the denoiser expects its input.

        x_t: [B,C,h,w]; t: [B], the step of each sample -> [B,C,h,w]
        """
        return torch.stack(
            [self.schedule.scale_input(x, int(t_i)) for x, t_i in zip(x_t, t, strict=True)]
        )
