"""Convolutions with less arithmetic where it pays: on a CPU, in fp32, without gradients.

Everywhere else these functions are the plain layers. All tricks are exact but for rounding.

- Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray, "Fast Algorithms for Convolutional
  Neural Networks", Section 4.3): 36 products for 4x4 outputs instead of 144. It goes by strips of
  rows, and norm and activation before it happen in the strip: neither is held for the whole map.
- A 3x3 convolution after nearest x2 sees each input pixel several times: the four output phases are
  2x2 convolutions of the input, with sums of the weights as theirs.
- A 1x1 convolution of channels-last maps is a matrix product, which BLAS does up to three times as
  fast.

Memory that a process sees for the first time costs more than arithmetic on it, so these functions
go by strips and use the memory of one strip for the next.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Operations, add, group_norm

_TILE = 4  # outputs of a tile along each axis; it reads _TILE + 2 inputs
_FEWEST_CHANNELS = 128  # below, the transforms cost more than they save
_FEWEST_PIXELS = 48 * 48
_STRIP_VALUES = 1 << 21  # transformed inputs held at once

_INPUT = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
_WEIGHT = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
_OUTPUT = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]


def norm_silu_conv(
    norm: Any,
    conv: Any,
    x: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    onto: Tensor | None = None,
) -> Tensor:
    """onto + conv(silu(norm(x) * (1 + scale) + shift)), the norm in fp32 whatever x is.

    Args:
        norm: GroupNorm of x's channels.
        conv: Conv2d, 3x3 with a padding of 1.
        x: [B,in,h,w].
        scale, shift: [B,in,1,1], or None.
        onto: [B,out,h,w], or None for 0. Without gradients its memory takes the result.

    Returns:
        [B,out,h,w].
    """
    if _worthwhile(conv, x):
        gain, offset = _affine(norm, x, scale, shift)
        return _winograd(
            x, conv, lambda strip: F.silu(strip.mul_(gain).add_(offset), inplace=True), onto
        )
    h = group_norm(norm, x)
    if scale is not None and shift is not None:
        h = torch.addcmul(shift, h, 1 + scale)
    h = conv(F.silu(h, inplace=not h.requires_grad))
    return h if onto is None else add(onto, h)


def pointwise(conv: Any, x: Tensor) -> Tensor:
    """conv(x), conv being 1x1. [B,in,h,w] -> [B,out,h,w]"""
    if not _plain(conv, x):
        return conv(x)
    return F.linear(x.movedim(1, 3), conv.weight.flatten(1), conv.bias).movedim(3, 1)


def pointwise_mlp(fc1: Any, fc2: Any, x: Tensor) -> Tensor:
    """fc2(gelu(fc1(x))), both 1x1, fc2 back to x's channels. [B,C,h,w] -> [B,C,h,w]"""
    if not (_plain(fc1, x) and _plain(fc2, x)):
        return fc2(F.gelu(fc1(x)))
    rows = x.movedim(1, 3).reshape(-1, x.shape[1])
    y = torch.cat(
        [
            F.linear(
                F.gelu(F.linear(strip, fc1.weight.flatten(1), fc1.bias)),
                fc2.weight.flatten(1),
                fc2.bias,
            )
            for strip in strips(fc1, rows, fc1.out_channels)
        ]
    )
    return y.view(x.movedim(1, 3).shape).movedim(3, 1)


def strips(layer: Any, x: Tensor, values: int) -> tuple[Tensor, ...]:
    """x, in parts along its first axis where `layer` runs on a CPU in fp32 without gradients.

    Args:
        layer: what will be applied to the parts.
        x: [n,...].
        values: what it makes of one of the n.
    """
    return x.split(max(1, _STRIP_VALUES // values) if _plain(layer, x) else max(1, len(x)))


def upsample_conv(conv: Any, x: Tensor) -> Tensor:
    """conv(nearest x2 of x), conv being 3x3 with a padding of 1. [B,in,h,w] -> [B,out,2h,2w]"""
    if not _plain(conv, x):
        return conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    # Rows that a phase reads: the even one (-1, 0, 0), the odd one (0, 0, 1), of the input.
    sums = x.new_tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])
    kernels = torch.einsum("pai,qbj,ocij->pqocab", sums, sums, conv.weight)
    b, c, h, w = x.shape
    y = x.new_empty(b, 2 * h, 2 * w, conv.out_channels).movedim(3, 1)  # channels-last
    rows = max(1, _STRIP_VALUES // (b * w * c))
    for first in range(0, h, rows):
        last = min(first + rows, h)
        strip = F.pad(x[:, :, max(first - 1, 0) : last + 1], (1, 1, first == 0, last == h))
        result = y[:, :, 2 * first : 2 * last]
        for p in (0, 1):
            for q in (0, 1):
                part = strip[:, :, p : p + last - first + 1, q : q + w + 1]
                result[:, :, p::2, q::2] = F.conv2d(part, kernels[p, q], conv.bias)
    return y


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
        x.device.type == "cpu"
        and x.dtype == conv.weight.dtype == torch.float32
        and conv.weight.device == x.device
        and not (torch.is_grad_enabled() and (x.requires_grad or conv.weight.requires_grad))
        and not torch.is_autocast_enabled("cpu")
    )


def _worthwhile(conv: Any, x: Tensor) -> bool:
    return (
        min(conv.in_channels, conv.out_channels) >= _FEWEST_CHANNELS
        and x.shape[2] * x.shape[3] >= _FEWEST_PIXELS
        and _plain(conv, x)
    )


def _affine(
    norm: Any, x: Tensor, scale: Tensor | None, shift: Tensor | None
) -> tuple[Tensor, Tensor]:
    """gain and offset, [B,1,1,C] each, such that x * gain + offset is the norm, then scaled and
    shifted."""
    b, c, h, w = x.shape
    rows = x.movedim(1, 3).reshape(b, h * w, c)
    mean = rows.mean(dim=1)  # [B,C]
    squares = torch.zeros_like(mean)
    for strip in rows.split(max(1, _STRIP_VALUES // (8 * b * c)), dim=1):  # which the cache holds
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


def _winograd(x: Tensor, conv: Any, before: Callable[[Tensor], Any], onto: Tensor | None) -> Tensor:
    """onto + conv(before(x)), `before` working in place on strips [B,rows,w,in] of x."""
    (b, c, h, w), o = x.shape, conv.out_channels
    input_2d, output_2d = (torch.kron(m, m) for m in map(x.new_tensor, (_INPUT, _OUTPUT)))
    weight = _winograd_weight(conv)
    tiles_h, tiles_w = -(-h // _TILE), -(-w // _TILE)
    x = x.movedim(1, 3)  # [B,h,w,C]
    y = x.new_empty(b, h, w, o) if onto is None else onto.movedim(1, 3)
    strip_tiles = min(tiles_h, max(1, _STRIP_VALUES // (36 * b * tiles_w * max(c, o))))
    strip = x.new_zeros(b, _TILE * strip_tiles + 2, _TILE * tiles_w + 2, c)
    first_buffer = x.new_empty(36 * b * strip_tiles * tiles_w * max(c, o))
    second_buffer = torch.empty_like(first_buffer)
    for first in range(0, tiles_h, strip_tiles):
        count = min(strip_tiles, tiles_h - first)
        top, bottom = _TILE * first - 1, min(_TILE * (first + count) + 1, h)
        inside = strip[:, max(top, 0) - top : bottom - top, 1 : w + 1]
        if top < 0:
            strip[:, 0] = 0
        strip[:, bottom - top :] = 0
        inside.copy_(x[:, max(top, 0) : bottom])
        before(inside)
        n = b * count * tiles_w
        tiles = first_buffer[: 36 * n * c].view(n, 36, c)
        windows = strip.unfold(1, 6, _TILE)[:, :count].unfold(2, 6, _TILE)
        tiles.view(b, count, tiles_w, 6, 6, c).copy_(windows.permute(0, 1, 2, 4, 5, 3))
        parts = second_buffer[: 36 * n * c].view(n, 36, c)
        torch.bmm(input_2d.expand(n, 36, 36), tiles, out=parts)
        products = first_buffer[: 36 * n * o].view(36, n, o)
        torch.bmm(parts.transpose(0, 1), weight, out=products)
        outputs = second_buffer[: 16 * n * o].view(n, 16, o)
        torch.bmm(output_2d.expand(n, 16, 36), products.transpose(0, 1), out=outputs)
        rows = first_buffer[: 16 * n * o].view(b, count, _TILE, tiles_w, _TILE, o)
        rows.copy_(outputs.view(b, count, tiles_w, _TILE, _TILE, o).transpose(2, 3))
        rows = rows.view(b, _TILE * count, _TILE * tiles_w, o)[:, : h - _TILE * first, :w]
        if conv.bias is not None:
            rows.add_(conv.bias)
        result = y[:, _TILE * first : _TILE * (first + count)]
        result.copy_(rows) if onto is None else result.add_(rows)
    return y.movedim(3, 1)


def _winograd_weight(conv: Any) -> Tensor:
    """[36,in,out]"""
    weight_1d = conv.weight.new_tensor(_WEIGHT)
    weight = conv.weight.permute(2, 3, 1, 0).reshape(9, -1)
    return (torch.kron(weight_1d, weight_1d) @ weight).view(36, conv.in_channels, -1)
