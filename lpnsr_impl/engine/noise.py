"""Noise from a seed, the same for any number of steps, switches, tiles and padding."""

import torch
from torch import Tensor

from ..config import Wrap
from ..method.sampler import NoiseSource
from ..pictures.wrap import continued

_PLANES = 1 << 31
"""Bit of the seed that is turned for a student's planes, one that PyTorch's generator looks at."""


def seeded_noise(seed: int, num_timesteps: int = 4) -> NoiseSource:
    """A noise source that depends on the seed and the shape alone.

    All that a run could ask for comes in one fixed order from a private CPU generator: the start,
    then the steps from T to 2. So the start is the same for any number of steps, and no switch
    changes the noise of another step. Asked in this order, as the chain does, each is drawn once.
    The planes of noise that a student reads have a generator of their own.

    Args:
        seed: 0 to 2^64 - 1.
        num_timesteps: T.

    Returns:
        noise(kind, t, shape) -> float32 CPU tensor.
    """
    order = ["init", *range(num_timesteps, 1, -1)]
    generator, drawn, of_shape = _generator(seed), 0, torch.Size()

    def noise(kind: str, t: int, shape: torch.Size) -> Tensor:
        nonlocal generator, drawn, of_shape
        if kind == "plane":
            return torch.randn(shape, generator=_generator(seed ^ _PLANES))
        wanted = t if kind == "step" else kind
        if wanted not in order:
            raise ValueError(
                f"There is no noise of kind {kind!r} at t = {t}; expected 'init' or 'plane', or "
                "'step' at 2 to T."
            )
        place = order.index(wanted)
        if shape != of_shape or place < drawn:
            generator, drawn, of_shape = _generator(seed), 0, torch.Size(shape)
        for _ in range(drawn, place):
            torch.randn(shape, generator=generator)
        drawn = place + 1
        return torch.randn(shape, generator=generator)

    return noise


def _generator(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def continued_noise(noise: NoiseSource, h: int, w: int, wrap: Wrap = "none") -> NoiseSource:
    """Noise for padded latents: drawn at the picture's own h and w, and continued as it is.

    So the noise inside the picture does not depend on the padding. It is the same for each picture
    of a batch, which so comes out as it would alone.
    """

    def source(kind: str, t: int, shape: torch.Size) -> Tensor:
        of_one = noise(kind, t, torch.Size((1, shape[1], h, w)))
        return continued(of_one, *shape[2:], wrap=wrap).expand(shape)

    return source
