"""The chain on pictures of any size: noise from a seed, padding in, cropping out."""

from collections.abc import Mapping

import torch
from torch import Tensor

from .config import PredictorMode
from .images import pad_to_multiple
from .models import Denoiser, NoisePredictor
from .sampler import ALL_ON, NoiseSource, StepCallback, sample
from .schedule import Schedule


def seeded_noise(seed: int, num_timesteps: int = 4) -> NoiseSource:
    """A noise source that depends on the seed and the shape alone.

    All that a run could ask for is drawn in one fixed order from a private CPU generator. So the
    start is the same for any number of steps, and no switch changes the noise of another step.

    Args:
        seed: 0 to 2^64 - 1.
        num_timesteps: T.

    Returns:
        noise(kind, t, shape) -> float32 CPU tensor.
    """

    def noise(kind: str, t: int, shape: torch.Size) -> Tensor:
        generator = torch.Generator("cpu").manual_seed(seed)
        draws = [("init", None), *(("step", step) for step in range(num_timesteps, 1, -1))]
        wanted = ("init", None) if kind == "init" else (kind, t)
        for draw in draws:
            n = torch.randn(shape, generator=generator)
            if draw == wanted:
                return n
        raise ValueError(
            f"There is no noise of kind {kind!r} at t = {t}; expected 'init', or 'step' at 2 to T."
        )

    return noise


def sample_any_size(
    denoiser: Denoiser,
    noise_predictor: NoisePredictor | None,
    schedule: Schedule,
    y0: Tensor,
    lr: Tensor,
    *,
    steps: int = 4,
    predictor_on: Mapping[int, bool] = ALL_ON,
    predictor_mode: PredictorMode = "sample",
    noise: NoiseSource,
    callback: StepCallback | None = None,
) -> Tensor:
    """`sample` for any height and width from 1 up, by mirroring y0, lr and noise to what the
    windows need.

    Noise is asked for at the picture's own size, so it does not depend on the padding. Arguments,
    result and errors are otherwise those of `lpnsr_impl.sampler.sample`.
    """
    multiple = denoiser.config.size_multiple
    h, w = y0.shape[2:]

    def padded_noise(kind: str, t: int, shape: torch.Size) -> Tensor:
        return pad_to_multiple(noise(kind, t, y0.shape), multiple)

    x0 = sample(
        denoiser,
        noise_predictor,
        schedule,
        pad_to_multiple(y0, multiple),
        pad_to_multiple(lr, multiple),
        steps=steps,
        predictor_on=predictor_on,
        predictor_mode=predictor_mode,
        noise=padded_noise,
        callback=callback,
    )
    return x0[:, :, :h, :w]
