"""Runs of the chain as users have them, to train on what it leaves."""

import numpy as np
import torch
from torch import Tensor, nn

from ...files.checkpoints import NOISE_PREDICTOR, ModelDescriptor, check_family, load_model
from ...files.folders import find_weights
from ...method import sampler
from ...method.noise import seeded_noise
from ...method.schedule import Schedule
from ...models import Autoencoder, Denoiser
from ...pictures.images import bicubic_upsample
from .config import Networks
from .teacher import Teacher


class UserRuns(nn.Module):
    """Half of them in all steps, half from the upscale model `names.start`, if there is one, and
    three in four with the noise predictor, if there is one.

    Args:
        names: of the files.
        autoencoder: makes y0.
        denoiser: gives the schedule, and the family that the noise predictor has to be of.

    Raises:
        ValueError: the networks do not belong together.
    """

    def __init__(
        self,
        names: Networks,
        autoencoder: ModelDescriptor[Autoencoder],
        denoiser: ModelDescriptor[Denoiser],
    ) -> None:
        super().__init__()
        predictor = None
        if names.noise_predictor:
            predictor = load_model(find_weights(names.noise_predictor), NOISE_PREDICTOR)
        self.schedule = Schedule(**vars(check_family(autoencoder, denoiser, predictor).schedule))
        self.autoencoder = autoencoder.network
        self.noise_predictor = None if predictor is None else predictor.network
        self.start = Teacher(find_weights(names.start)) if names.start else None

    def run(self, denoiser: sampler.Denoiser, lr: Tensor, rng: np.random.Generator) -> Tensor:
        """Latents x0 of LR pictures in [-1,1]; only what `denoiser` does has gradients.

        [B,3,h,w] -> float32 [B,C,h,w]
        """
        most = self.schedule.num_timesteps
        steps = most if rng.random() < 0.5 else int(rng.integers(1, most + 1))
        predicted, own_start = rng.random() < 0.75, rng.random() < 0.5
        predictor = self.noise_predictor if predicted else None
        with torch.no_grad():
            start = self.start(lr) if self.start and own_start else bicubic_upsample(lr)
            y0 = self.autoencoder.encode(start)
        return sampler.sample(
            denoiser,
            None if predictor is None else torch.no_grad()(predictor),
            self.schedule,
            y0,
            lr,
            steps=steps,
            predictor_on=dict.fromkeys(range(2, most + 1), predictor is not None),
            noise=seeded_noise(int(rng.integers(2**63)), most),
        ).float()
