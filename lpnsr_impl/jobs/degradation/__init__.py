"""Synthetic low-resolution pictures: Real-ESRGAN's two-order degradation (paper Section 4.1).

`draw` chooses all parameters from a seeded rng, `degrade` applies them and draws nothing itself.
"""

from .apply import degrade
from .parameters import Degradation, draw

__all__ = ["Degradation", "degrade", "draw"]
