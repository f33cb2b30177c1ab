"""Spectral-norm PatchGAN and its hinge losses (paper Eq. 12, L_g)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class PatchDiscriminator(nn.Module):
    """Judges patches: `layers` halvings, the channels doubled at each up to eight times.

    Args:
        in_channels: of latents or images.
        channels: after the first convolution.
        layers: number of convolutions of stride 2.
    """

    def __init__(self, in_channels: int, channels: int = 64, layers: int = 3) -> None:
        super().__init__()
        self.smallest = 3 * 2**layers
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
        """Score patches. [B,C,h,w] -> [B,1,h',w']

        Raises:
            ValueError: h or w is below 3 * 2^layers.
        """
        if min(x.shape[2:]) < self.smallest:
            raise ValueError(
                f"The discriminator judges {x.shape[3]}x{x.shape[2]}, expected {self.smallest} or "
                "more each way. Give a larger crop, or fewer discriminator.layers."
            )
        return self.body(x)


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of the discriminator from its scores."""
    return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2


def generator_loss(fake: Tensor) -> Tensor:
    """What the generator minimises: minus the mean score."""
    return -torch.mean(fake)
