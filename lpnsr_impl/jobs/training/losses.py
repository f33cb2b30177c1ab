"""Losses on images [B,3,H,W] in [-1,1].

They are the image losses of the LPNSR paper (Eq. 12), a feature loss, and two losses that preserve
colours and edges in small autoencoders.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...pictures.images import to_01
from .config import LossWeights
from .features import FeatureLoss


class ImageLoss(nn.Module):
    """Weighted sum of the image losses.

    Args:
        weights: weights of the losses. The weights of latent and GAN losses are ignored.

    Raises:
        RuntimeError: LPIPS or the feature loss is enabled, but its network can't be loaded.
    """

    def __init__(self, weights: LossWeights) -> None:
        super().__init__()
        self.weights = weights
        loaders = {"lpips": load_lpips, "features": FeatureLoss}
        self.networks = nn.ModuleDict(
            {name: load() for name, load in loaders.items() if getattr(weights, name)}
        )

    def forward(self, image: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Compute each loss whose weight is not 0, multiplied by its weight."""
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
    """L1 between the images averaged over 2x2 blocks, plus the same for 4x4 blocks."""
    return sum(
        (F.l1_loss(F.avg_pool2d(image, n), F.avg_pool2d(target, n)) for n in (2, 4)),
        start=torch.zeros((), device=image.device),
    )


def gradient_loss(image: Tensor, target: Tensor) -> Tensor:
    """L1 between the horizontal pixel differences, plus the same for the vertical ones."""
    return F.l1_loss(image.diff(dim=3), target.diff(dim=3)) + F.l1_loss(
        image.diff(dim=2), target.diff(dim=2)
    )


def load_lpips() -> nn.Module:
    """Load pyiqa's LPIPS with VGG, frozen.

    Raises:
        RuntimeError: pyiqa is not installed, or the weights can't be downloaded.
    """
    advice = (
        "LPIPS needs pyiqa (pip install pyiqa) and its VGG weights, which pyiqa downloads from "
        "Hugging Face at first use. Go online once, or set loss.lpips=0.0 to train without it."
    )
    try:
        import pyiqa

        metric = pyiqa.create_metric("lpips-vgg", as_loss=True)
    except Exception as e:
        raise RuntimeError(f"{advice} ({type(e).__name__}: {e})") from e
    return metric.requires_grad_(False)
