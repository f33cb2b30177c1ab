"""Faster layers for CPUs, which need fewer operations or less memory traffic."""

from functools import cache

import torch
from torch import Tensor, nn

from ..models import Autoencoder, UNet
from ..models.autoencoder import Quantizer
from ..models.layers import BorderedGroupNorm, Upsample
from ..models.swin import Mlp
from .group_norm import RowwiseBorderedGroupNorm, RowwiseGroupNorm
from .winograd import CONV, UPSAMPLE_CONV, convolve

_MIN_CHANNELS = 64  # with fewer, Winograd's transforms cost more than they save
_MIN_PIXELS = 48 * 48  # with fewer, the transform of the weights costs more than it saves
_CACHED_VALUES = 1 << 19  # float32 values that fit into the cache of a core


class WinogradConv2d(nn.Conv2d):
    """3x3 convolution with a padding of 1, in fp32, by Winograd filtering."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # ComfyUI's layers also call this method, with weights that they have cast.
        if input.shape[2] * input.shape[3] < _MIN_PIXELS:
            return super()._conv_forward(input, weight, bias)
        return convolve(input, weight, bias, CONV)


class UpsampleConv2d(nn.Conv2d):
    """Nearest-neighbour upsampling x2 and a 3x3 convolution in one step, by Winograd filtering."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return convolve(input, weight, bias, UPSAMPLE_CONV)


class WinogradUpsample(Upsample):
    """Upsampling layer whose `conv`, an `UpsampleConv2d`, also does the upsampling."""

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,h,w] -> [B,C,2h,2w]"""
        return self.conv(x)


class StripMlp(Mlp):
    """MLP that processes strips of rows, so that their hidden values stay in the CPU cache."""

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,h,w] -> [B,C,h,w]"""
        rows = max(1, _CACHED_VALUES // (len(x) * x.shape[3] * self.fc1.out_channels))
        forward = super().forward
        return torch.cat([forward(strip) for strip in x.split(rows, dim=2)], dim=2)


class CachedQuantizer(Quantizer):
    """Quantizer that processes few vectors at once, so that distances stay in the CPU cache."""

    rows = 256


def accelerate_on_cpu(network: UNet | Autoencoder) -> None:
    """Replace layers of a network by faster ones for inference. Call it after `set_precision`."""
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
    """Replace layers of a network by faster ones for training, in any precision."""
    for module in network.modules():
        if type(module) is nn.GroupNorm and module.affine:
            module.__class__ = RowwiseGroupNorm
        elif type(module) is BorderedGroupNorm:
            module.__class__ = RowwiseBorderedGroupNorm
        elif type(module) is Quantizer:
            module.__class__ = CachedQuantizer


def _suits_winograd(conv: nn.Conv2d) -> bool:
    return (
        not isinstance(conv, UpsampleConv2d)
        and (conv.kernel_size, conv.padding, conv.stride) == ((3, 3), (1, 1), (1, 1))
        and min(conv.in_channels, conv.out_channels) >= _MIN_CHANNELS
    )


def _replace(conv: nn.Conv2d, faster: type[nn.Conv2d]) -> None:
    conv.__class__ = _combine(faster, type(conv))


@cache
def _combine(faster: type[nn.Conv2d], layer: type[nn.Conv2d]) -> type[nn.Conv2d]:
    """Derive a class that takes `_conv_forward` from `faster`, and everything else from `layer`.

    `layer` may be a class of ComfyUI.
    """
    return type(f"{faster.__name__}Of{layer.__name__}", (faster, layer), {})
