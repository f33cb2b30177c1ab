"""Swin stage of ResShift's U-Net: window attention on convolutional feature maps."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..pictures.images import padded_size, reflect_pad
from .layers import Operations, make_norm

_MASKED = -100.0
_MOST_WINDOWS = 1 << 15
"""Maximum number of windows in one attention call. CUDA's grid size is limited to 65,535."""


def relative_position_index(window: int) -> Tensor:
    """Return the row of the bias table for each pair of positions in a window: int64 [N*N] with
    N = window^2."""
    y, x = torch.meshgrid(2 * [torch.arange(window, device="cpu")], indexing="ij")
    y, x = y.flatten(), x.flatten()  # [N]
    dy = y[:, None] - y[None, :] + window - 1  # [N,N]
    dx = x[:, None] - x[None, :] + window - 1
    return (dy * (2 * window - 1) + dx).flatten()


def shift_mask(window: int, shift: int) -> Tensor:
    """Return where attention is suppressed in the bottom row of shifted windows: bool [N,N] with
    N = window^2.

    The released networks use this mask instead of Swin's, as the golden tests show. It suppresses
    attention between the columns left and right of `window - shift`, and only in the bottom row of
    windows. Attention between rows that the cyclic shift brings together is not suppressed, nor is
    any attention in the rightmost windows of other rows.
    """
    column = torch.arange(window, device="cpu").repeat(window)  # [N], row-major positions
    right = column >= window - shift
    return right[:, None] != right[None, :]


class WindowAttention(nn.Module):
    """Multi-head attention inside windows, with a learned bias per relative position."""

    relative_position_index: Tensor
    shift_mask: Tensor

    def __init__(
        self, width: int, num_heads: int, window: int, shift: int, operations: Operations
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window = window
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * window - 1) ** 2, num_heads)
        )
        self.qkv = operations.Linear(width, 3 * width)
        self.proj = operations.Linear(width, width)
        for name, value in (
            ("relative_position_index", relative_position_index(window)),
            ("shift_mask", shift_mask(window, shift)),
        ):
            self.register_buffer(name, value, persistent=False)

    def position_bias(self, x: Tensor) -> Tensor:
        """Return the bias [1,heads,N,N] with the device and dtype of x.

        The bias is contiguous, because CUDA kernels would expand any other bias to all windows. The
        table and the index are moved and cast first, as ComfyUI may not have done so.
        """
        table = self.relative_position_bias_table.to(x)  # [(2w-1)^2,heads]
        bias = table.T.index_select(1, self.relative_position_index.to(x.device))  # [heads,N*N]
        return bias.view(1, -1, self.window**2, self.window**2)

    def forward(self, x: Tensor, num_masked: int) -> Tensor:
        """x: [nW,N,C] -> [nW,N,C]. The shift mask applies to the last `num_masked` windows."""
        q, k, v = rearrange(
            self.qkv(x), "w n (qkv heads d) -> qkv w heads n d", qkv=3, heads=self.num_heads
        )
        bias = self.position_bias(x)  # [1,heads,N,N]
        split = len(x) - num_masked
        windows = [(range_, bias) for range_ in _ranges(0, split)]
        if num_masked:
            bias = torch.add(bias, self.shift_mask.to(x.device), alpha=_MASKED)
            windows += [(range_, bias) for range_ in _ranges(split, len(x))]
        parts = [  # [n,heads,N,d] each
            F.scaled_dot_product_attention(q[i], k[i], v[i], attn_mask=mask) for i, mask in windows
        ]
        h = torch.cat(parts) if len(parts) > 1 else parts[0]  # [nW,heads,N,d]
        return self.proj(rearrange(h, "w heads n d -> w n (heads d)"))


def _ranges(start: int, stop: int) -> list[slice]:
    return [
        slice(first, min(first + _MOST_WINDOWS, stop))
        for first in range(start, stop, _MOST_WINDOWS)
    ]


class Mlp(nn.Module):
    """Two pointwise convolutions with an exact GELU between them."""

    def __init__(self, width: int, hidden: int, operations: Operations) -> None:
        super().__init__()
        self.fc1 = operations.Conv2d(width, hidden, 1)
        self.fc2 = operations.Conv2d(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,h,w] -> [B,C,h,w]"""
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """Swin block: x + attention(norm(x)), then x + mlp(norm(x)).

    Windows are shifted cyclically by `shift`.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        mlp_width: int,
        window: int,
        shift: int,
        norm_size: int | None,
        operations: Operations,
    ) -> None:
        super().__init__()
        self.window = window
        self.shift = shift
        self.norm1 = make_norm(width, norm_size, operations)
        self.attn = WindowAttention(width, num_heads, window, shift, operations)
        self.norm2 = make_norm(width, norm_size, operations)
        self.mlp = Mlp(width, mlp_width, operations)

    def attention(self, x: Tensor) -> Tensor:
        """[B,C,h,w] -> [B,C,h,w]. The feature map is padded by reflection to whole windows."""
        b, _, h, w = x.shape
        n, shift = self.window, self.shift
        height, width = padded_size(h, w, n)
        x = rearrange(reflect_pad(x, height, width), "b c h w -> b h w c")
        if shift:
            x = x.roll((-shift, -shift), dims=(1, 2))
        x = rearrange(x, "b (row p) (col q) c -> (row col b) (p q) c", p=n, q=n)
        x = self.attn(x, b * width // n if shift else 0)  # the bottom row of windows comes last
        sizes = {"row": height // n, "col": width // n, "p": n, "q": n}
        x = rearrange(x, "(row col b) (p q) c -> b (row p) (col q) c", **sizes)
        if shift:
            x = x.roll((shift, shift), dims=(1, 2))
        return rearrange(x[:, :h, :w], "b h w c -> b c h w")

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,h,w] -> [B,C,h,w]"""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PointwiseProjection(nn.Module):
    """A 1x1 convolution. Its state dict key is `proj`, as in Swin's patch (un)embedding."""

    def __init__(self, in_channels: int, out_channels: int, operations: Operations) -> None:
        super().__init__()
        self.proj = operations.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B,in,h,w] -> [B,out,h,w]"""
        return self.proj(x)


class SwinStage(nn.Module):
    """Projects to the width of the Swin blocks, applies them, and projects back.

    There is no residual connection around the stage.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        depth: int,
        num_heads: int,
        mlp_width: int,
        window: int,
        shift: int,
        norm_size: int | None,
        operations: Operations,
    ) -> None:
        super().__init__()
        self.patch_embed = PointwiseProjection(channels, width, operations)
        self.blocks = nn.ModuleList(
            SwinBlock(
                width,
                num_heads,
                mlp_width,
                window,
                shift if i % 2 else 0,
                norm_size,
                operations,
            )
            for i in range(depth)
        )
        self.patch_unembed = PointwiseProjection(width, channels, operations)

    def forward(self, x: Tensor) -> Tensor:
        """[B,channels,h,w] -> [B,channels,h,w]"""
        x = self.patch_embed(x)
        for block in self.blocks:
            x = block(x)
        return self.patch_unembed(x)
