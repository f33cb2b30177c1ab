"""Convolutions with less arithmetic where it pays: on a CPU, in fp32, without gradients.

Everywhere else these functions are the plain layers. All tricks are exact but for rounding: 3x3
convolutions by `winograd`, 1x1 convolutions of channels-last maps as matrix products, and what can
go in parts does, so that the memory of one part serves the next.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Operations, add, group_norm
from .winograd import UPSAMPLE_CONV, filtered

_FEWEST_CHANNELS = 64  # below, Winograd's transforms cost more than they save
_FEWEST_PIXELS = 48 * 48  # below, the transform of the weights does
_STRIP_VALUES = 1 << 19  # of a part


def norm_silu_conv(
    norm: Any,
    conv: Any,
    x: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    plus: Tensor | None = None,
    spare: bool = False,
) -> Tensor:
    """plus + conv(silu(norm(x) * (1 + scale) + shift)), the norm in fp32 whatever x is.

    Args:
        norm: GroupNorm of x's channels.
        conv: Conv2d, 3x3 with a padding of 1.
        x: [B,in,h,w].
        scale, shift: [B,in,1,1], or None.
        plus: [B,out,h,w], or None for 0.
        spare: whether, without gradients, the memory of `plus`, which is not x, may take the
            result.

    Returns:
        [B,out,h,w].
    """
    if _plain(conv, x) and x.shape[2] * x.shape[3] >= _FEWEST_PIXELS:
        gain, offset = _affine(norm, x, scale, shift)

        def norm_silu(rows: Tensor, out: Tensor) -> None:
            F.silu(torch.addcmul(offset, rows, gain, out=out), inplace=True)

        narrow = min(conv.in_channels, conv.out_channels) < _FEWEST_CHANNELS
        convolved = _conv_by_strips if narrow else filtered
        return convolved(x, conv, before=norm_silu, plus=plus, out=plus if spare else None)
    h = group_norm(norm, x)
    if scale is not None and shift is not None:
        h = torch.addcmul(shift, h, 1 + scale)
    h = conv(F.silu(h, inplace=not h.requires_grad))
    return h if plus is None else add(h, plus)


def pointwise(conv: Any, x: Tensor, spare: bool = False) -> Tensor:
    """conv(x), conv being 1x1. [B,in,h,w] -> [B,out,h,w]

    Args:
        spare: whether, without gradients, x's memory may take the result, as a part of it.
    """
    if not _plain(conv, x):
        return conv(x)
    rows, weight = x.movedim(1, 3), conv.weight.flatten(1)
    if not spare or conv.out_channels > conv.in_channels:
        return F.linear(rows, weight, conv.bias).movedim(3, 1)
    flat = rows.flatten(0, 2)
    for part in _strips(flat, len(weight)):
        part[:, : len(weight)] = F.linear(part, weight, conv.bias)
    return flat[:, : len(weight)].view(*rows.shape[:3], -1).movedim(3, 1)


def pointwise_mlp(fc1: Any, fc2: Any, x: Tensor) -> Tensor:
    """fc2(gelu(fc1(x))), both 1x1, fc2 back to x's channels. [B,C,h,w] -> [B,C,h,w]

    Without gradients the result may take x's memory.
    """
    if not (_plain(fc1, x) and _plain(fc2, x)):
        return fc2(F.gelu(fc1(x)))

    def mlp(rows: Tensor) -> Tensor:
        h = F.gelu(F.linear(rows, fc1.weight.flatten(1), fc1.bias))
        return F.linear(h, fc2.weight.flatten(1), fc2.bias)

    rows = x.movedim(1, 3)
    y = by_strips(mlp, fc1, rows.flatten(0, 2), fc1.out_channels)
    return y.view(rows.shape).movedim(3, 1)


def by_strips(function: Callable[[Tensor], Tensor], layer: Any, x: Tensor, values: int) -> Tensor:
    """function(x); in parts along x's first axis, onto x's own memory, where `layer` runs on a CPU
    in fp32 without gradients.

    Args:
        function: of [n,...] for any n, to the same shape.
        layer: a layer that it applies.
        x: [n,...].
        values: what `function` holds at once for one of the n.
    """
    if not _plain(layer, x):
        return function(x)
    for part in _strips(x, values):
        part.copy_(function(part))
    return x


def _strips(x: Tensor, values: int) -> tuple[Tensor, ...]:
    return x.split(max(1, _STRIP_VALUES // values))


def upsample_conv(conv: Any, x: Tensor) -> Tensor:
    """conv(nearest x2 of x), conv being 3x3 with a padding of 1. [B,in,h,w] -> [B,out,2h,2w]"""
    if not _plain(conv, x):
        return conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    return filtered(x, conv, UPSAMPLE_CONV)


class Upsample(nn.Module):
    """Nearest x2, then a 3x3 convolution."""

    def __init__(self, channels: int, operations: Operations) -> None:
        super().__init__()
        self.conv = operations.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,h,w] -> [B,C,2h,2w]"""
        return upsample_conv(self.conv, x)


def _plain(conv: Any, x: Tensor) -> bool:
    """Whether weights may be used directly, and gradients are not asked for."""
    return (
        not torch.compiler.is_compiling()  # which has its own ways
        and x.device.type == "cpu"
        and x.dtype == conv.weight.dtype == torch.float32
        and conv.weight.device == x.device
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )


def _conv_by_strips(
    x: Tensor,
    conv: Any,
    before: Callable[[Tensor, Tensor], Any],
    plus: Tensor | None,
    out: Tensor | None,
) -> Tensor:
    """What `winograd.filtered` gives, by the plain layer."""
    b, c, h, w = x.shape
    x = x.movedim(1, 3)
    y = x.new_empty(b, h, w, conv.out_channels).movedim(3, 1) if out is None else out
    rows = max(1, _STRIP_VALUES // (b * w * c))
    for first in range(0, h, rows):
        last = min(first + rows, h)
        top, bottom = max(first - 1, 0), min(last + 1, h)
        strip = x.new_zeros(b, last - first + 2, w, c)
        before(x[:, top:bottom], strip[:, top - first + 1 : bottom - first + 1])
        part = F.conv2d(strip.movedim(3, 1), conv.weight, conv.bias, padding=(0, 1))
        y[:, :, first:last] = part if plus is None else part.add_(plus[:, :, first:last])
    return y


def _affine(
    norm: Any, x: Tensor, scale: Tensor | None, shift: Tensor | None
) -> tuple[Tensor, Tensor]:
    """gain and offset, [B,1,1,C] each, such that x * gain + offset is the norm, then scaled and
    shifted."""
    b, c, h, w = x.shape
    rows = x.movedim(1, 3).reshape(b, h * w, c)
    mean = rows.mean(dim=1)  # [B,C]
    squares = torch.zeros_like(mean)
    for strip in rows.split(max(1, _STRIP_VALUES // (b * c)), dim=1):  # which the cache holds
        squares += (strip - mean[:, None]).square_().sum(dim=1)
    groups = (b, norm.num_groups, -1)
    group_mean = mean.view(groups).mean(dim=2, keepdim=True)
    group_var = squares.view(groups) / (h * w) + (mean.view(groups) - group_mean).square()
    group_var = group_var.mean(dim=2, keepdim=True)
    gain = (group_var + norm.eps).rsqrt().expand(b, norm.num_groups, c // norm.num_groups)
    gain = gain.reshape(b, c) * norm.weight
    offset = norm.bias - group_mean.expand_as(mean.view(groups)).reshape(b, c) * gain
    if scale is not None and shift is not None:
        gain, offset = gain * (1 + scale[:, :, 0, 0]), offset * (1 + scale[:, :, 0, 0])
        offset = offset + shift[:, :, 0, 0]
    return gain[:, None, None], offset[:, None, None]
