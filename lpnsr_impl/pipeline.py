"""What a picture of any size needs around the chain: padding, noise from a seed, colours.

`encode_start`, `run_chain` and `decode_latent` are the three stages that nodes and evaluation
share.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .config import SCALE, PredictorMode
from .images import bicubic_upsample, padded_size, reflect_pad, to_01, to_pm1
from .models import Autoencoder, Denoiser, NoisePredictor
from .sampler import ALL_ON, NoiseSource, StepCallback, sample
from .schedule import Schedule

ColorFix = Callable[[Tensor, Tensor], Tensor]


def encode_start(autoencoder: Autoencoder, start: Tensor, multiple: int) -> Tensor:
    """y0 of a pre-upsampled picture, padded to what the denoiser's windows need.

    Args:
        autoencoder: encodes.
        start: [B,3,4h,4w] in [0,1].
        multiple: `size_multiple` of the denoiser's config.

    Returns:
        [B,C,H,W] with H and W the next multiples of `multiple` from h and w.
    """
    return autoencoder.encode(pad_start(to_pm1(start), multiple))


def run_chain(
    denoiser: Denoiser,
    noise_predictor: NoisePredictor | None,
    schedule: Schedule,
    y0: Tensor,
    lr: Tensor,
    *,
    seed: int,
    steps: int = 4,
    predictor_on: Mapping[int, bool] = ALL_ON,
    predictor_mode: PredictorMode = "sample",
    callback: StepCallback | None = None,
) -> Tensor:
    """The chain of `sampler.sample` on a padded latent, with noise of a seed.

    Args:
        y0: padded, [B,C,H,W].
        lr: not padded, [B,3,h,w] in [-1,1].
        seed: 0 to 2^64 - 1.

    Returns:
        x0, padded, [B,C,H,W].
    """
    noise = seeded_noise(seed, schedule.num_timesteps)
    return sample(
        denoiser,
        noise_predictor,
        schedule,
        y0,
        reflect_pad(lr, *y0.shape[2:]),
        steps=steps,
        predictor_on=predictor_on,
        predictor_mode=predictor_mode,
        noise=mirrored_noise(noise, *lr.shape[2:]),
        callback=callback,
    )


def decode_latent(
    autoencoder: Autoencoder, x0: Tensor, lr: Tensor, color_fix: ColorFix | None
) -> Tensor:
    """Picture of a padded latent, cut to size, its colours those of bicubic x4.

    Args:
        x0: padded, [B,C,H,W].
        lr: not padded, [B,3,h,w] in [-1,1].
        color_fix: fix(sr, reference), or None.

    Returns:
        [B,3,4h,4w] in [0,1].
    """
    h, w = lr.shape[2:]
    sr = to_01(autoencoder.decode(x0)[:, :, : SCALE * h, : SCALE * w])
    return color_fix(sr, to_01(bicubic_upsample(lr))) if color_fix else sr


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


def mirrored_noise(noise: NoiseSource, h: int, w: int) -> NoiseSource:
    """Noise for a padded latent: drawn at the picture's own h and w, and mirrored as it is.

    So the noise inside the picture does not depend on the padding.
    """

    def source(kind: str, t: int, shape: torch.Size) -> Tensor:
        return reflect_pad(noise(kind, t, torch.Size((*shape[:2], h, w))), *shape[2:])

    return source


def pad_start(start: Tensor, multiple: int) -> Tensor:
    """Mirror the x4 start so that its latent's height and width are multiples of `multiple`.

    It is mirrored as its LR picture is, which is what the published inference pads.
    [B,3,4h,4w] -> [B,3,4H,4W]
    """
    h, w = padded_size(start.shape[2] // SCALE, start.shape[3] // SCALE, multiple)
    return reflect_pad(start, SCALE * h, SCALE * w, block=SCALE)
