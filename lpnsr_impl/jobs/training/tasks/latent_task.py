"""What trainings of denoiser and noise predictor have in common."""

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
    """Common to denoiser and noise predictor: a frozen autoencoder, and latents of both ends."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        name = config.networks.autoencoder
        if not name:
            raise ValueError("networks.autoencoder is empty; training this needs one.")
        self.autoencoder_model = load_model(find_weights(name), AUTOENCODER)
        self.autoencoder = self.autoencoder_model.network

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
