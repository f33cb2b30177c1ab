"""Noise from a seed: the same start and the same steps for any number of steps and any switches."""

import torch
from torch import Tensor

from .sampler import NoiseSource

_PLANES = 1 << 31
"""XORed with the seed for the noise planes that a student reads."""


class _Draws:
    """Standard normal tensors from all 64 bits of a seed.

    A CPU generator uses 32 bits, so the upper half, if it is not 0, seeds a second one.
    """

    def __init__(self, seed: int) -> None:
        low, high = seed % (1 << 32), seed >> 32
        self._low = torch.Generator("cpu").manual_seed(low)
        self._high = torch.Generator("cpu").manual_seed(high) if high else None
        if self._high:
            torch.rand(4096, generator=self._high)  # equal halves must not draw the same numbers

    def __call__(self, shape: torch.Size) -> Tensor:
        x = torch.randn(shape, generator=self._low)
        if self._high is None:
            return x
        return 0.8 * x + 0.6 * torch.randn(shape, generator=self._high)  # variance 1


def seeded_noise(seed: int, num_timesteps: int = 4) -> NoiseSource:
    """Make a noise source that depends on the seed and the shape alone.

    All noise that a run may ask for is drawn in one fixed order from a private CPU generator: the
    start, then the steps from T to 2. So the start is the same for any number of steps, and no
    switch changes the noise of another step. The planes of noise that a student reads have a
    generator of their own.

    Args:
        seed: 0 to 2^64 - 1.
        num_timesteps: T.

    Returns:
        noise(kind, t, shape) -> float32 CPU tensor. It raises ValueError for other kinds than
        "init", "plane", and "step" at t = 2 to T.
    """
    order = ["init", *range(num_timesteps, 1, -1)]
    draws, num_drawn, last_shape = _Draws(seed), 0, torch.Size()

    def noise(kind: str, t: int, shape: torch.Size) -> Tensor:
        nonlocal draws, num_drawn, last_shape
        if kind == "plane":
            return _Draws(seed ^ _PLANES)(shape)
        wanted = t if kind == "step" else kind
        if wanted not in order:
            raise ValueError(
                f"There is no noise of kind {kind!r} at t = {t}; expected 'init' or 'plane', or "
                "'step' at 2 to T."
            )
        place = order.index(wanted)
        if shape != last_shape or place < num_drawn:
            draws, num_drawn, last_shape = _Draws(seed), 0, torch.Size(shape)
        for _ in range(num_drawn, place):
            draws(shape)
        num_drawn = place + 1
        return draws(shape)

    return noise
