"""Swin stage of ResShift's U-Net: window attention on convolutional feature maps."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..pictures.images import padded_size, reflect_pad
from .convolution import by_strips, pointwise, pointwise_mlp
from .layers import NORM_GROUPS, Operations, add, constant, group_norm

_MASKED = -100.0


@constant
def relative_position_index(window: int, device: torch.device) -> Tensor:
    """Row of the bias table for each pair of positions in a window: int64 [N*N], N = window^2."""
    with torch.inference_mode(False):  # a cached inference tensor could not be used in training
        y, x = torch.meshgrid(2 * [torch.arange(window, device=device)], indexing="ij")
        y, x = y.flatten(), x.flatten()
        dy = y[:, None] - y[None, :] + window - 1
        dx = x[:, None] - x[None, :] + window - 1
        return (dy * (2 * window - 1) + dx).flatten()


@constant
def shift_mask(window: int, shift: int, device: torch.device) -> Tensor:
    """Where attention is suppressed in the bottom row of shifted windows: bool [N,N].

    This is the released networks' mask, as the goldens pin it, and not Swin's: only in the bottom
    row of windows, between the columns left and right of `window - shift`. Rows that the cyclic
    shift brings together, and the rightmost windows, do see each other.
    """
    with torch.inference_mode(False):
        column = torch.arange(window, device=device).repeat(window)  # [N], row-major positions
        right = column >= window - shift
        return right[:, None] != right[None, :]


@constant
def window_positions(
    b: int, h: int, w: int, window: int, shift: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Which pixel stands where when [B,h,w] maps are cut into windows, and back.

    Windows that stick out see the map mirrored at its edge, and shifted ones go on at the opposite
    edge. The bottom windows of all maps come last.

    Returns:
        The pixel of each place in a window, int64 [nW*B*N]; one place of each pixel, [B*h*w].
    """
    with torch.inference_mode(False):
        pixels = reflect_pad(
            torch.arange(b * h * w, device=device).view(b, 1, h, w), *padded_size(h, w, window)
        ).squeeze(1)
        sizes = {"nh": pixels.shape[1] // window, "a": window, "b": window}
        pixels = rearrange(
            pixels.roll((-shift, -shift), dims=(1, 2)),
            "n (nh a) (nw b) -> (nh nw n a b)",
            **sizes,
        )
        places = rearrange(
            torch.arange(len(pixels), device=device),
            "(nh nw n a b) -> n (nh a) (nw b)",
            n=b,
            **sizes,
        )
        places = places.roll((shift, shift), dims=(1, 2))[:, :h, :w].flatten()
        return pixels, places


class WindowAttention(nn.Module):
    """Multi-head attention inside one window, with a learned bias per relative position."""

    def __init__(self, width: int, num_heads: int, window: int, operations: Operations) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window = window
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * window - 1) ** 2, num_heads)
        )
        self.qkv = operations.Linear(width, 3 * width)
        self.proj = operations.Linear(width, width)

    def position_bias(self, x: Tensor) -> Tensor:
        """[1,heads,N,N] as x: the host need not have cast or moved the table."""
        index = relative_position_index(self.window, x.device)
        bias = self.relative_position_bias_table.to(x)[index]  # [N*N,heads]
        return rearrange(bias, "(n m) heads -> 1 heads n m", n=self.window**2)

    def forward(self, x: Tensor, shift: int, num_masked: int) -> Tensor:
        """x: [nW,N,C]; in the last `num_masked` windows the shift mask suppresses attention.
        Without gradients the result may take x's memory."""
        bias = self.position_bias(x)
        split = len(x) - num_masked
        if not num_masked:
            return self._attend(x, bias)
        mask = shift_mask(self.window, shift, x.device).to(x.dtype)
        masked = self._attend(x[split:], bias + _MASKED * mask)
        return torch.cat([self._attend(x[:split], bias), masked]) if split else masked

    def _attend(self, x: Tensor, bias: Tensor) -> Tensor:
        """x: [b,N,C]; bias: [1,heads,N,N] -> [b,N,C]"""

        def attended(x: Tensor) -> Tensor:
            q, k, v = rearrange(
                self.qkv(x),
                "b n (three heads d) -> three b heads n d",
                three=3,
                heads=self.num_heads,
            )
            mask = bias.expand(len(x), -1, -1, -1)
            h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.proj(rearrange(h, "b heads n d -> b n (heads d)"))

        return by_strips(attended, self.qkv, x, 3 * x.shape[1] * x.shape[2])


class Mlp(nn.Module):
    """Two pointwise convolutions with an exact GELU between them."""

    def __init__(self, width: int, hidden: int, operations: Operations) -> None:
        super().__init__()
        self.fc1 = operations.Conv2d(width, hidden, 1)
        self.fc2 = operations.Conv2d(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,h,w] -> [B,C,h,w]"""
        return pointwise_mlp(self.fc1, self.fc2, x)


class SwinBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); windows are shifted cyclically by `shift`."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        mlp_width: int,
        window: int,
        shift: int,
        operations: Operations,
    ) -> None:
        super().__init__()
        self.window = window
        self.shift = shift
        self.norm1 = operations.GroupNorm(NORM_GROUPS, width, eps=1e-5)
        self.attn = WindowAttention(width, num_heads, window, operations)
        self.norm2 = operations.GroupNorm(NORM_GROUPS, width, eps=1e-5)
        self.mlp = Mlp(width, mlp_width, operations)

    def attention(self, x: Tensor) -> Tensor:
        """[B,C,h,w] -> [B,C,h,w]"""
        b, c, h, w = x.shape
        pixels, places = window_positions(b, h, w, self.window, self.shift, x.device)
        rows = x.movedim(1, 3).reshape(-1, c)
        windows = rows[pixels].view(-1, self.window**2, c)
        bottom = b * (padded_size(h, w, self.window)[1] // self.window)
        windows = self.attn(windows, self.shift, bottom if self.shift else 0)
        return windows.view(-1, c)[places].view(b, h, w, c).movedim(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,h,w] -> [B,C,h,w]"""
        x = add(self.attention(group_norm(self.norm1, x)), x)
        return add(self.mlp(group_norm(self.norm2, x)), x)


class PointwiseProjection(nn.Module):
    """A 1x1 convolution under the key `proj`, as Swin's patch (un)embedding has it."""

    def __init__(self, in_channels: int, out_channels: int, operations: Operations) -> None:
        super().__init__()
        self.proj = operations.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B,in,h,w] -> [B,out,h,w]"""
        return pointwise(self.proj, x)


class SwinStage(nn.Module):
    """Project to the Swin width, run the blocks, project back. There is no outer skip."""

    def __init__(
        self,
        channels: int,
        width: int,
        depth: int,
        num_heads: int,
        mlp_width: int,
        window: int,
        shift: int,
        operations: Operations,
    ) -> None:
        super().__init__()
        self.patch_embed = PointwiseProjection(channels, width, operations)
        self.blocks = nn.ModuleList(
            SwinBlock(width, num_heads, mlp_width, window, shift if i % 2 else 0, operations)
            for i in range(depth)
        )
        self.patch_unembed = PointwiseProjection(width, channels, operations)

    def forward(self, x: Tensor) -> Tensor:
        """[B,channels,h,w] -> [B,channels,h,w]"""
        x = self.patch_embed(x)
        for block in self.blocks:
            x = block(x)
        return self.patch_unembed(x)
