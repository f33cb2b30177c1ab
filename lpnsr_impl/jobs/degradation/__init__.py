"""Synthesises LR pictures by Real-ESRGAN's second-order degradation (paper Section 4.1).

`draw` draws all parameters from a seeded rng, and `degrade` applies them deterministically.
"""

from .apply import degrade
from .parameters import Degradation, draw

__all__ = ["Degradation", "degrade", "draw"]
