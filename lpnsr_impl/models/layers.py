"""Small layers that the networks share.

`operations` is a namespace of layer classes, `torch.nn` by default. A host that offloads or casts
weights passes its own (ComfyUI: `comfy.ops`), so networks never move weights themselves.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Operations = Any
"""A namespace whose Conv2d, Linear, GroupNorm and Embedding take `torch.nn`'s arguments."""


def make_norm(channels: int, groups: int, eps: float, operations: Operations) -> nn.Module:
    """GroupNorm; with 0 groups a fixed scale and shift of each channel, which do not depend on the
    picture or its size."""
    if groups:
        return operations.GroupNorm(groups, channels, eps=eps)
    return operations.Conv2d(channels, channels, 1, groups=channels)


class Upsample(nn.Module):
    """Nearest x2, then a 3x3 convolution."""

    def __init__(self, channels: int, operations: Operations) -> None:
        super().__init__()
        self.conv = operations.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,h,w] -> [B,C,2h,2w]"""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def timestep_embedding(t_index: Tensor, width: int, max_period: float = 10000.0) -> Tensor:
    """Sinusoidal embedding, cosines first: frequencies max_period^(-i/half), i = 0...half-1.

    Args:
        t_index: [B], the paper's t - 1.
        width: even width of the embedding.

    Returns:
        float32 [B,width].
    """
    half = width // 2
    i = torch.arange(half, device=t_index.device)
    frequencies = torch.exp(-math.log(max_period) / half * i)  # [half]
    angles = t_index[:, None] * frequencies  # [B,half]
    return torch.cat([angles.cos(), angles.sin()], dim=1)
