"""Samples latents with random inference settings, to train networks on these latents."""

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


class RandomInference(nn.Module):
    """Runs the sampling chain on LR pictures with random settings.

    Half of the runs take all steps, and the others a random number of steps. If `names.start` is
    given, half of the runs start from the output of this upscale model; other runs start from
    bicubic upsampling. If a noise predictor is given, three in four runs use it.

    Args:
        names: model files; `noise_predictor` and `start` are used.
        autoencoder: encodes the upsampled images that runs start from.
        denoiser: its schedule is used, and its family must match that of the other networks.

    Raises:
        ValueError: the networks are of different families.
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
        """Sample latents x0 from LR pictures. Gradients flow only through `denoiser`.

        lr: [B,3,h,w] in [-1,1] -> x0: float32 [B,C,h,w]
        """
        max_steps = self.schedule.num_timesteps
        steps = max_steps if rng.random() < 0.5 else int(rng.integers(1, max_steps + 1))
        use_predictor, use_model_start = rng.random() < 0.75, rng.random() < 0.5
        predictor = self.noise_predictor if use_predictor else None
        with torch.no_grad():
            start = self.start(lr) if self.start and use_model_start else bicubic_upsample(lr)
            y0 = self.autoencoder.encode(start)
        return sampler.sample(
            denoiser,
            None if predictor is None else torch.no_grad()(predictor),
            self.schedule,
            y0,
            lr,
            steps=steps,
            predictor_on=dict.fromkeys(range(2, max_steps + 1), predictor is not None),
            noise=seeded_noise(int(rng.integers(2**63)), max_steps),
        ).float()
