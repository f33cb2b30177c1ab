"""A sprite: a disc of one colour on transparent black."""

import torch
from torch import Tensor

YELLOW = torch.tensor([1.0, 0.9, 0.1])


def yellow_disc(ring: float = 0.0) -> Tensor:
    """Make an RGBA image of a disc, [48,48,4] in [0,1], rounded to 8 bits. The black pixels just
    outside the disc have the alpha `ring`."""
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    distance = ((y - 23.5) ** 2 + (x - 23.5) ** 2).sqrt()
    alpha = (16.5 - distance).clamp(0, 1)
    rgb = torch.where(alpha[..., None] > 0, YELLOW, torch.zeros(3))
    alpha = torch.where((alpha == 0) & (distance < 20), ring, alpha)
    return (255 * torch.cat([rgb, alpha[..., None]], dim=2)).round() / 255


def fringe(image: Tensor) -> float:
    """Return the largest colour error of the visible pixels of an upscaled disc.

    Args:
        image: RGBA, [192,192,4] in [0,1].
    """
    rgb, alpha = image[..., :3], image[..., 3]
    return float((rgb - YELLOW).abs().amax(dim=2)[alpha > 0.05].max())
