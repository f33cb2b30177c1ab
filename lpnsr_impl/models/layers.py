"""Small layers that the networks share.

`operations` is a namespace of layer classes, `torch.nn` by default. ComfyUI passes its own layers
(`comfy.ops`), which offload and cast weights, so the networks do neither.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Operations = Any
"""A namespace whose Conv2d, Linear, GroupNorm and Embedding take `torch.nn`'s arguments."""

NORM_GROUPS = 32

_BORDER = 2
"""Width of the border in which zero padding causes large values, in pixels of a feature map."""


class BorderedGroupNorm(nn.GroupNorm):
    """GroupNorm whose statistics give the border of a feature map a constant weight.

    Zero padding causes large values at the border of a feature map. In a larger map the border has
    a smaller share of the pixels, so GroupNorm divides by a smaller standard deviation, and a
    network that was trained on small images sharpens large ones too much. Here the weight of the
    border is always its share in maps of `size` x `size`.

    Args:
        channels: channels of the feature map.
        size: height and width of feature maps for which the result equals that of GroupNorm.
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__(NORM_GROUPS, channels, eps=1e-5)
        self.size = size

    def forward(self, input: Tensor) -> Tensor:
        """[B,C,h,w] -> [B,C,h,w]. Maps that consist only of border pixels are normalised as
        by GroupNorm."""
        (h, w), weight, bias = input.shape[2:], self.weight.to(input), self.bias.to(input)
        if min(h, w, self.size) <= 2 * _BORDER:
            return F.group_norm(input, self.num_groups, weight, bias, self.eps)
        x = self.standardize(input).to(input.dtype)  # autocast computes norms in fp32
        # Over the whole map, the mean of x is 0 and its mean square is 1. The moments with the new
        # weight of the border follow from these and the moments of the border.
        inner = (1 - _border_share(self.size, self.size)) / (1 - _border_share(h, w))
        mean, square = (1 - inner) * self._moments(_border(x).float())
        std = (inner + square - mean.square()).sqrt()  # [B,G]
        channels = self.num_channels // self.num_groups
        mean, std = (m.repeat_interleave(channels, dim=1) for m in (mean, std))  # [B,C]
        scale = weight / std
        shift = bias - mean * scale
        scale, shift = (m[:, :, None, None].to(input.dtype) for m in (scale, shift))
        return torch.addcmul(shift, x, scale)

    def standardize(self, x: Tensor) -> Tensor:
        """Normalise each group to mean 0 and variance 1. x: [B,C,h,w] -> [B,C,h,w]"""
        return F.group_norm(x, self.num_groups, eps=self.eps)

    def _moments(self, x: Tensor) -> Tensor:
        """Return mean and mean square of each group. x: [B,n,C] -> [2,B,G]"""
        moments = torch.stack([x.mean(dim=1), x.square().mean(dim=1)])  # [2,B,C]
        return moments.unflatten(2, (self.num_groups, -1)).mean(dim=3)


def _border(x: Tensor) -> Tensor:
    """Collect the n pixels at the border. x: [B,C,h,w] -> [B,n,C]"""
    x = x.movedim(1, 3)
    middle, ends = slice(_BORDER, -_BORDER), (slice(_BORDER), slice(-_BORDER, None))
    strips = [x[:, end] for end in ends] + [x[:, middle, end] for end in ends]
    return torch.cat([strip.flatten(1, 2) for strip in strips], dim=1)


def _border_share(h: int, w: int) -> float:
    return 1 - (h - 2 * _BORDER) * (w - 2 * _BORDER) / (h * w)


def make_norm(channels: int, size: int | None, operations: Operations) -> nn.Module:
    """Create a GroupNorm, or a `BorderedGroupNorm` if `size` is given."""
    if size is None:
        return operations.GroupNorm(NORM_GROUPS, channels, eps=1e-5)
    return BorderedGroupNorm(channels, size)


class Upsample(nn.Module):
    """Nearest-neighbour upsampling x2, then a 3x3 convolution."""

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
