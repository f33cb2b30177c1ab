"""Discriminators (spectral-norm PatchGAN, feature heads) and hinge losses (paper Eq. 12, L_g)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ...pictures.images import to_01
from .features import CHANNELS, FeatureLoss


class PatchDiscriminator(nn.Module):
    """Scores patches of latents or images (PatchGAN).

    Args:
        in_channels: channels of the input.
        channels: channels after the first convolution. The number doubles with each layer, up to
            eight times `channels`.
        layers: number of convolutions of stride 2.
    """

    def __init__(self, in_channels: int, channels: int = 64, layers: int = 3) -> None:
        super().__init__()
        self.min_size = 3 * 2**layers
        widths = [channels * min(2**i, 8) for i in range(layers + 1)]
        inputs = [in_channels, *widths[:-1]]
        body: list[nn.Module] = []
        for i, (before, after) in enumerate(zip(inputs, widths, strict=True)):
            stride = 2 if i < layers else 1
            body += [
                spectral_norm(nn.Conv2d(before, after, 4, stride, padding=1)),
                nn.LeakyReLU(0.2),
            ]
        self.body = nn.Sequential(*body, spectral_norm(nn.Conv2d(widths[-1], 1, 4, padding=1)))

    def forward(self, x: Tensor) -> Tensor:
        """Score patches. x: [B,C,h,w] -> scores [B,1,h',w']

        Raises:
            ValueError: h or w is below 3 * 2^layers.
        """
        if min(x.shape[2:]) < self.min_size:
            raise ValueError(
                f"The discriminator got an input of {x.shape[3]}x{x.shape[2]}, expected at least "
                f"{self.min_size}x{self.min_size}. Set a larger crop or fewer discriminator.layers."
            )
        return self.body(x)


class FeatureDiscriminator(nn.Module):
    """Scores images with a small head on each feature map of a frozen EfficientNet-Lite0.

    Only the heads are trained (Sauer et al. 2021, Projected GANs).

    Args:
        channels: hidden channels of the heads.

    Raises:
        RuntimeError: the packages of the backbone are not installed.
    """

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        self.backbone = FeatureLoss()
        self.heads = nn.ModuleList(
            nn.Sequential(
                spectral_norm(nn.Conv2d(width, channels, 3, padding=1)),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(channels, 1, 3, padding=1)),
            )
            for width in CHANNELS
        )

    def requires_grad_(self, requires_grad: bool = True) -> "FeatureDiscriminator":
        """Set `requires_grad` of the heads. The backbone stays frozen."""
        self.heads.requires_grad_(requires_grad)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Score images, one channel per feature map.

        x: [B,3,H,W] in [-1,1] -> scores [B,5,H/4,W/4]
        """
        size = (x.shape[2] // 4, x.shape[3] // 4)
        scores = [
            F.interpolate(head(features), size, mode="bilinear")
            for head, features in zip(self.heads, self.backbone.features(to_01(x)), strict=True)
        ]
        return torch.cat(scores, dim=1)


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of the discriminator, from its scores."""
    return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2


def generator_loss(fake: Tensor) -> Tensor:
    """Hinge loss of the generator: the negative mean score."""
    return -torch.mean(fake)
