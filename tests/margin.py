"""Reference implementation of the margin that the engine adds to images, for images that fit into
one tile: pad with edge pixels, run a network, and crop the padding.

The padded height and width must be sizes that the networks accept.
"""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from lpnsr_impl.engine.tiled import MARGIN


def extend(x: Tensor, scale: int = 1) -> Tensor:
    """Pad with edge pixels: [B,C,h,w] -> [B,C,h+2m,w+2m], where m = scale * MARGIN."""
    return F.pad(x, [scale * MARGIN] * 4, mode="replicate")


def crop(x: Tensor, scale: int = 1) -> Tensor:
    """Remove the padding of `extend`: [B,C,h+2m,w+2m] -> [B,C,h,w], where m = scale * MARGIN."""
    m = scale * MARGIN
    return x[:, :, m:-m, m:-m]


def with_margin(network: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a denoiser or noise predictor so that it pads its inputs and crops its outputs."""

    def run(*inputs: Any) -> Any:
        outputs = network(*(extend(x) if isinstance(x, Tensor) else x for x in inputs))
        return crop(outputs) if isinstance(outputs, Tensor) else tuple(map(crop, outputs))

    return run
