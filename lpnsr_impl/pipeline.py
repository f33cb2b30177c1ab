"""What a picture of any size needs around the chain: noise from a seed, and padding."""

import torch
from torch import Tensor

from .config import SCALE
from .images import padded_size, reflect_pad
from .sampler import NoiseSource


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
