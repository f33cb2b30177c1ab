"""Estimate which details of a result are invented, from the differences between several seeds."""

import torch
from torch import Tensor

_INFERNO = (
    (0.001, 0.000, 0.014),
    (0.087, 0.045, 0.225),
    (0.258, 0.039, 0.406),
    (0.416, 0.090, 0.433),
    (0.578, 0.148, 0.404),
    (0.736, 0.216, 0.330),
    (0.865, 0.317, 0.226),
    (0.955, 0.469, 0.100),
    (0.988, 0.645, 0.040),
    (0.964, 0.844, 0.273),
    (0.988, 0.998, 0.645),
)
"""Colours of matplotlib's colour map "inferno" at 0.0, 0.1, ..., 1.0."""


class RunningDeviation:
    """Mean and standard deviation of tensors that are added one after another (Welford's
    algorithm).

    All tensors must have the same shape. Memory use does not grow with their number.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.empty(0)
        self._squares = torch.empty(0)

    def add(self, x: Tensor) -> None:
        """Add a tensor."""
        if self.count == 0:
            self.mean = torch.zeros_like(x)
            self._squares = torch.zeros_like(x)
        self.count += 1
        before = x - self.mean
        self.mean += before / self.count
        self._squares += before.mul_(x - self.mean)

    def deviation(self) -> Tensor:
        """Return the unbiased standard deviation.

        Raises:
            ValueError: fewer than two tensors have been added.
        """
        if self.count < 2:
            raise ValueError(f"A deviation needs 2 tensors or more, got {self.count}.")
        return (self._squares / (self.count - 1)).sqrt()


def heat_map(x: Tensor) -> Tensor:
    """Map values in [0,1] to colours from black over violet and red to yellow.

    x: [...] -> [...,3] in [0,1]
    """
    stops = torch.tensor(_INFERNO, dtype=x.dtype, device=x.device)
    position = x.clamp(0, 1) * (len(stops) - 1)
    low = position.long().clamp(max=len(stops) - 2)
    return torch.lerp(stops[low], stops[low + 1], (position - low)[..., None])
