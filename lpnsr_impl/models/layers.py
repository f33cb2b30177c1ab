"""Small layers that the networks share.

`operations` is a namespace of layer classes, `torch.nn` by default. A host that offloads or casts
weights passes its own (ComfyUI: `comfy.ops`), so networks never move weights themselves.
"""

import math
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

Operations = Any
"""A namespace whose Conv2d, Linear, GroupNorm and Embedding take `torch.nn`'s arguments."""

NORM_GROUPS = 32


P = ParamSpec("P")
R = TypeVar("R")


def constant(function: Callable[P, R]) -> Callable[P, R]:
    """Call the function once for the same arguments; `inspect.unwrap` gives the function itself.

    What torch.compile compiles has it in its graph, as it can't see through a cache.
    """
    cached = lru_cache(maxsize=16)(function)  # a network's levels, for two sizes

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        chosen = function if torch.compiler.is_compiling() else cached
        return chosen(*args, **kwargs)

    return call


def group_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """Apply a GroupNorm in fp32, whatever the activations are. [B,C,h,w] -> [B,C,h,w]"""
    return norm(x.float()).to(x.dtype)


def add(x: Tensor, y: Tensor) -> Tensor:
    """x + y; in x's memory where no gradient needs it."""
    return x + y if torch.is_grad_enabled() else x.add_(y)


def timestep_embedding(t_index: Tensor, width: int, max_period: float = 10000.0) -> Tensor:
    """Sinusoidal embedding, cosines first: frequencies max_period^(-i/half), i = 0...half-1.

    Args:
        t_index: [B], the paper's t - 1.
        width: even width of the embedding.

    Returns:
        float32 [B,width].
    """
    half = width // 2
    frequencies = torch.exp(
        -math.log(max_period) / half * torch.arange(half, device=t_index.device)
    )
    angles = t_index.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)
