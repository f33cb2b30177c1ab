"""Less arithmetic and less traffic to memory on a CPU."""

from functools import cache

import torch
from torch import Tensor, nn

from ..models import Autoencoder, UNet
from ..models.autoencoder import Quantizer
from ..models.layers import Upsample
from ..models.swin import Mlp
from .group_norm import RowwiseGroupNorm
from .winograd import CONV, UPSAMPLE_CONV, filtered

_FEWEST_CHANNELS = 64  # below, Winograd's transforms cost more than they save
_FEWEST_PIXELS = 48 * 48  # below, the transform of the weights does
_CACHED_VALUES = 1 << 19  # that a core's cache holds


class WinogradConv2d(nn.Conv2d):
    """A 3x3 convolution with a padding of 1, in fp32."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # What a host's layers call as well, with the weights that they have cast.
        if input.shape[2] * input.shape[3] < _FEWEST_PIXELS:
            return super()._conv_forward(input, weight, bias)
        return filtered(input, weight, bias, CONV)


class UpsampleConv2d(nn.Conv2d):
    """The same behind nearest x2, which it does itself."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return filtered(input, weight, bias, UPSAMPLE_CONV)


class WinogradUpsample(Upsample):
    """Leaves all to its convolution."""

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,h,w] -> [B,C,2h,2w]"""
        return self.conv(x)


class StripMlp(Mlp):
    """Goes by strips of rows, whose hidden values stay in the cache."""

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,h,w] -> [B,C,h,w]"""
        rows = max(1, _CACHED_VALUES // (len(x) * x.shape[3] * self.fc1.out_channels))
        forward = super().forward
        return torch.cat([forward(strip) for strip in x.split(rows, dim=2)], dim=2)


class CachedQuantizer(Quantizer):
    """Compares few positions at once with the codebook, whose distances stay in the cache."""

    rows = 256


def accelerate_on_cpu(network: UNet | Autoencoder) -> None:
    """Replace layers of a network, whose precision is set."""
    for module in list(network.modules()):
        if isinstance(module, Mlp):
            module.__class__ = StripMlp
        elif isinstance(module, Quantizer):
            module.__class__ = CachedQuantizer
        elif network.compute_dtype != torch.float32:
            continue
        elif isinstance(module, Upsample):
            module.__class__ = WinogradUpsample
            _replace(module.conv, UpsampleConv2d)
        elif isinstance(module, nn.Conv2d) and _suits_winograd(module):
            _replace(module, WinogradConv2d)


def train_on_cpu(network: nn.Module) -> None:
    """Replace layers of networks whose gradients are wanted, in any precision."""
    for module in network.modules():
        if type(module) is nn.GroupNorm and module.affine:
            module.__class__ = RowwiseGroupNorm
        elif type(module) is Quantizer:
            module.__class__ = CachedQuantizer


def _suits_winograd(conv: nn.Conv2d) -> bool:
    return (
        not isinstance(conv, UpsampleConv2d)
        and (conv.kernel_size, conv.padding, conv.stride) == ((3, 3), (1, 1), (1, 1))
        and min(conv.in_channels, conv.out_channels) >= _FEWEST_CHANNELS
    )


def _replace(conv: nn.Conv2d, way: type[nn.Conv2d]) -> None:
    conv.__class__ = _joined(way, type(conv))


@cache
def _joined(way: type[nn.Conv2d], layer: type[nn.Conv2d]) -> type[nn.Conv2d]:
    """The way's `_conv_forward` with all else of a layer, which may be a host's."""
    return type(f"{way.__name__}Of{layer.__name__}", (way, layer), {})
