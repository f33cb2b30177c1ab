"""Reproducible noise. The noise of a step depends only on the seed and the shape of the latent."""

import torch
from torch import Tensor

from .sampler import NoiseSource

_PLANES = 1 << 31
"""XORed with the seed to draw the additional noise channels of a one-step student's input."""


class _Draws:
    """Draws standard normal tensors that depend on all 64 bits of a seed.

    PyTorch's CPU generator uses only 32 bits of a seed. If the upper 32 bits are not 0, they seed
    a second generator.
    """

    def __init__(self, seed: int) -> None:
        low, high = seed % (1 << 32), seed >> 32
        self._low = torch.Generator("cpu").manual_seed(low)
        self._high = torch.Generator("cpu").manual_seed(high) if high else None
        if self._high:
            # If both halves of a seed are equal, skipping numbers makes the generators differ.
            torch.rand(4096, generator=self._high)

    def __call__(self, shape: torch.Size) -> Tensor:
        x = torch.randn(shape, generator=self._low)
        if self._high is None:
            return x
        return 0.8 * x + 0.6 * torch.randn(shape, generator=self._high)  # variance 0.64 + 0.36 = 1


def seeded_noise(seed: int, num_timesteps: int = 4) -> NoiseSource:
    """Make a noise source whose noise depends only on the seed and the shape.

    Noise is always drawn in the same order from a private CPU generator: first the initial noise,
    then the noise of the steps T to 2. Therefore the initial noise is the same for any number of
    steps, and switching the noise predictor on in one step does not change the noise of other
    steps. The additional noise channels of a student's input are drawn from another generator.

    Args:
        seed: 0 to 2^64 - 1.
        num_timesteps: T, the number of steps of the noise schedule.

    Returns:
        noise(kind, t, shape) -> float32 CPU tensor. `kind` is "init" for the initial noise, "plane"
        for the additional noise channels of a student, or "step" for the noise of step t, with t
        from 2 to T. Other values raise ValueError.
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
                f"Got the noise kind {kind!r} at t = {t}; expected 'init' or 'plane', or 'step' at "
                "t = 2 to T."
            )
        place = order.index(wanted)
        if shape != last_shape or place < num_drawn:
            draws, num_drawn, last_shape = _Draws(seed), 0, torch.Size(shape)
        for _ in range(num_drawn, place):
            draws(shape)
        num_drawn = place + 1
        return draws(shape)

    return noise
