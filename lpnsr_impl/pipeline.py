"""The chain on pictures of any size: noise from a seed, padding in, cropping out."""

from collections.abc import Mapping

import torch
from torch import Tensor

from .config import SCALE, PredictorMode
from .images import padded_size, reflect_pad
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


def sample_picture(
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
    """`sample` for a picture whose latent is padded: lr and noise are mirrored to its size.

    Noise is asked for at the picture's own size, so it does not depend on the padding.

    Args:
        y0: latent of the padded start, see `pad_start`, [B,C,H,W].
        lr: LR picture of its own size, [B,3,h,w] in [-1,1] with h <= H and w <= W.

    The other arguments, the result x0 [B,C,H,W] and the errors are those of
    `lpnsr_impl.sampler.sample`.
    """
    padded = y0.shape[2:]

    def padded_noise(kind: str, t: int, shape: torch.Size) -> Tensor:
        own = torch.Size((*shape[:2], *lr.shape[2:]))
        return reflect_pad(noise(kind, t, own), *padded)

    return sample(
        denoiser,
        noise_predictor,
        schedule,
        y0,
        reflect_pad(lr, *padded),
        steps=steps,
        predictor_on=predictor_on,
        predictor_mode=predictor_mode,
        noise=padded_noise,
        callback=callback,
    )


def pad_start(start: Tensor, multiple: int) -> Tensor:
    """Mirror the x4 start so that its latent's height and width are multiples of `multiple`.

    It is mirrored as its LR picture is, which is what the published inference pads.
    [B,3,4h,4w] -> [B,3,4H,4W]
    """
    h, w = padded_size(start.shape[2] // SCALE, start.shape[3] // SCALE, multiple)
    return reflect_pad(start, SCALE * h, SCALE * w, block=SCALE)
