"""What the engine does with an image of one tile, written out: it repeats the edge pixels around
the image, runs a network, and cuts off what that made of them.

For images whose height and width, with the margin, are what the networks accept.
"""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from lpnsr_impl.engine.tiled import MARGIN


def extend(x: Tensor, scale: int = 1) -> Tensor:
    """[B,C,h,w] -> [B,C,h+2m,w+2m], m being the margin times `scale`."""
    return F.pad(x, [scale * MARGIN] * 4, mode="replicate")


def crop(x: Tensor, scale: int = 1) -> Tensor:
    """The inverse of `extend`."""
    m = scale * MARGIN
    return x[:, :, m:-m, m:-m]


def with_margin(network: Callable[..., Any]) -> Callable[..., Any]:
    """A denoiser or noise predictor on extended inputs."""

    def run(*inputs: Any) -> Any:
        outputs = network(*(extend(x) if isinstance(x, Tensor) else x for x in inputs))
        return crop(outputs) if isinstance(outputs, Tensor) else tuple(map(crop, outputs))

    return run
