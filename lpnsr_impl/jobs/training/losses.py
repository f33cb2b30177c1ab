"""Losses on images in [-1,1], [B,3,H,W] (paper Eq. 12, and two that keep a small autoencoder's
colours and edges)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...pictures.images import to_01
from .config import LossWeights
from .features import FeatureLoss


class ImageLoss(nn.Module):
    """Weighted sum of the image losses.

    Args:
        weights: factors; those of latents and of the GAN are not its business.

    Raises:
        RuntimeError: LPIPS or features are wanted and their weights can't be had.
    """

    def __init__(self, weights: LossWeights) -> None:
        super().__init__()
        self.weights = weights
        loaders = {"lpips": load_lpips, "features": FeatureLoss}
        self.networks = nn.ModuleDict(
            {name: load() for name, load in loaders.items() if getattr(weights, name)}
        )

    def forward(self, image: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Each loss that has a weight, multiplied by it."""
        losses = {"l1": F.l1_loss, "pyramid": pyramid_loss, "gradient": gradient_loss}
        weighted = {
            name: weight * loss(image, target)
            for name, loss in losses.items()
            if (weight := getattr(self.weights, name))
        }
        for name, network in self.networks.items():
            distance = network(to_01(image), to_01(target)).mean()
            weighted[name] = getattr(self.weights, name) * distance
        return weighted


def pyramid_loss(image: Tensor, target: Tensor) -> Tensor:
    """L1 of the pictures averaged 2x2, plus that of 4x4."""
    return sum(
        (F.l1_loss(F.avg_pool2d(image, n), F.avg_pool2d(target, n)) for n in (2, 4)),
        start=torch.zeros((), device=image.device),
    )


def gradient_loss(image: Tensor, target: Tensor) -> Tensor:
    """L1 of the differences between neighbours, across plus down."""
    return F.l1_loss(image.diff(dim=3), target.diff(dim=3)) + F.l1_loss(
        image.diff(dim=2), target.diff(dim=2)
    )


def load_lpips() -> nn.Module:
    """LPIPS with VGG, by pyiqa, frozen.

    Raises:
        RuntimeError: pyiqa or the weights can't be had.
    """
    how = (
        "LPIPS needs pyiqa (pip install pyiqa) and its VGG weights, which pyiqa downloads from "
        "Hugging Face at first use. Connect once, or set loss.lpips=0.0 to train without it."
    )
    try:
        import pyiqa

        metric = pyiqa.create_metric("lpips-vgg", as_loss=True)
    except Exception as e:
        raise RuntimeError(f"{how} ({type(e).__name__}: {e})") from e
    return metric.requires_grad_(False)
