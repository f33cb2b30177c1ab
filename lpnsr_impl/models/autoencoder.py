"""VQGAN's VQ-f4 autoencoder as ResShift uses it; module names match the released checkpoint."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import AutoencoderConfig
from .layers import Operations, Upsample

_SCORE_BYTES = 1 << 29
"""Maximum size of the attention scores in fp32, in bytes. The layers at the resolution of the image
need more memory anyway."""


def _norm(channels: int, groups: int, operations: Operations) -> nn.Module:
    if groups:
        return operations.GroupNorm(groups, channels, eps=1e-6)
    return operations.Conv2d(channels, channels, 1, groups=channels)


class ResBlock(nn.Module):
    """Residual block: norm, SiLU and 3x3 convolution, twice. The shortcut is a 1x1 convolution if
    the number of channels changes."""

    def __init__(
        self, in_channels: int, out_channels: int, groups: int, operations: Operations
    ) -> None:
        super().__init__()
        self.norm1 = _norm(in_channels, groups, operations)
        self.conv1 = operations.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = _norm(out_channels, groups, operations)
        self.conv2 = operations.Conv2d(out_channels, out_channels, 3, padding=1)
        self.nin_shortcut = (
            nn.Identity()
            if in_channels == out_channels
            else operations.Conv2d(in_channels, out_channels, 1)
        )
        self.silu = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """[B,in,h,w] -> [B,out,h,w]"""
        h = self.conv1(self.silu(self.norm1(x)))  # [B,out,h,w]
        h = self.conv2(self.silu(self.norm2(h)))  # [B,out,h,w]
        return self.nin_shortcut(x) + h


class Attention(nn.Module):
    """Single-head self-attention over all positions, with a residual connection."""

    def __init__(self, channels: int, groups: int, operations: Operations) -> None:
        super().__init__()
        self.norm = _norm(channels, groups, operations)
        self.q = operations.Conv2d(channels, channels, 1)
        self.k = operations.Conv2d(channels, channels, 1)
        self.v = operations.Conv2d(channels, channels, 1)
        self.proj_out = operations.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,h,w] -> [B,C,h,w]"""
        h = self.norm(x).contiguous(memory_format=torch.channels_last)  # [h*w,C] in memory
        projections = (self.q, self.k, self.v)
        q, k, v = (rearrange(project(h), "b c h w -> b 1 (h w) c") for project in projections)
        # If inputs are not contiguous, PyTorch chooses a kernel that stores all [h*w,h*w] scores.
        h = self.attend(q.contiguous(), k.contiguous(), v.contiguous())  # [B,1,h*w,C]
        return x + self.proj_out(rearrange(h, "b 1 (h w) c -> b c h w", h=x.shape[2]))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Compute softmax(q k^T / sqrt(C)) v. q, k, v and the result are [B,1,h*w,C].

        Queries are processed in parts, because ROCm, Metal and DirectML have no fused kernel for a
        head of this width, and the scores of all queries together would not fit into memory.
        """
        rows = max(1, _SCORE_BYTES // (4 * len(k) * k.shape[2]))
        parts = [F.scaled_dot_product_attention(part, k, v) for part in q.split(rows, dim=2)]
        return torch.cat(parts, dim=2)


class Downsample(nn.Module):
    """3x3 convolution with stride 2; the input is zero-padded at the right and bottom only."""

    def __init__(self, channels: int, operations: Operations) -> None:
        super().__init__()
        self.conv = operations.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,h,w] -> [B,C,h/2,w/2]"""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Middle(nn.Module):
    """Residual block, optional attention and residual block, at the resolution of the latent."""

    def __init__(self, config: AutoencoderConfig, operations: Operations) -> None:
        super().__init__()
        channels, groups = config.level_channels[-1], config.norm_groups
        self.block_1 = ResBlock(channels, channels, groups, operations)
        self.attn_1 = Attention(channels, groups, operations) if config.attention else nn.Identity()
        self.block_2 = ResBlock(channels, channels, groups, operations)

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,h,w] -> [B,C,h,w]"""
        return self.block_2(self.attn_1(self.block_1(x)))


class Level(nn.Module):
    """Residual blocks at one resolution; the first one changes the number of channels."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int,
        groups: int,
        operations: Operations,
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResBlock(out_channels if i else in_channels, out_channels, groups, operations)
            for i in range(num_blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B,in,h,w] -> [B,out,h,w]"""
        for block in self.block:
            x = block(x)
        return x


class DownLevel(Level):
    """Encoder level. All levels except the last one end with downsampling."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int,
        groups: int,
        last: bool,
        operations: Operations,
    ) -> None:
        super().__init__(in_channels, out_channels, num_blocks, groups, operations)
        self.downsample = nn.Identity() if last else Downsample(out_channels, operations)

    def forward(self, x: Tensor) -> Tensor:
        """[B,in,h,w] -> [B,out,h/2,w/2], or [B,out,h,w] at the last level"""
        return self.downsample(super().forward(x))


class UpLevel(Level):
    """Decoder level. All levels except the last one end with upsampling."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int,
        groups: int,
        last: bool,
        operations: Operations,
    ) -> None:
        super().__init__(in_channels, out_channels, num_blocks, groups, operations)
        self.upsample = nn.Identity() if last else Upsample(out_channels, operations)

    def forward(self, x: Tensor) -> Tensor:
        """[B,in,h,w] -> [B,out,2h,2w], or [B,out,h,w] at the last level"""
        return self.upsample(super().forward(x))


class Encoder(nn.Module):
    """Encodes an image to features at the resolution of the latent."""

    def __init__(self, config: AutoencoderConfig, operations: Operations) -> None:
        super().__init__()
        levels, groups = config.level_channels, config.norm_groups
        inputs, last = (levels[0], *levels[:-1]), len(levels) - 1
        self.conv_in = operations.Conv2d(config.image_channels, levels[0], 3, padding=1)
        self.down = nn.ModuleList(
            DownLevel(inputs[i], levels[i], config.num_res_blocks, groups, i == last, operations)
            for i in range(len(levels))
        )
        self.mid = Middle(config, operations)
        self.norm_out = _norm(levels[-1], groups, operations)
        self.silu = nn.SiLU()
        self.conv_out = operations.Conv2d(levels[-1], config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B,3,H,W] -> [B,latent_channels,H/4,W/4]"""
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        h = self.mid(h)  # [B,C,H/4,W/4]
        return self.conv_out(self.silu(self.norm_out(h)))


class Decoder(nn.Module):
    """Decodes quantised features to an image. `up[0]` works at the image's resolution."""

    def __init__(self, config: AutoencoderConfig, operations: Operations) -> None:
        super().__init__()
        levels, groups = config.level_channels, config.norm_groups
        inputs = (*levels[1:], levels[-1])
        self.conv_in = operations.Conv2d(config.latent_channels, levels[-1], 3, padding=1)
        self.mid = Middle(config, operations)
        self.up = nn.ModuleList(
            UpLevel(inputs[i], levels[i], config.num_res_blocks + 1, groups, i == 0, operations)
            for i in range(len(levels))
        )
        self.norm_out = _norm(levels[0], groups, operations)
        self.silu = nn.SiLU()
        self.conv_out = operations.Conv2d(levels[0], config.image_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """[B,latent_channels,h,w] -> [B,3,4h,4w]"""
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        return self.conv_out(self.silu(self.norm_out(h)))


class Quantizer(nn.Module):
    """Replaces each latent vector by the nearest codebook entry (L2), searched in fp32.

    Attributes:
        rows: number of latent vectors compared with the codebook at once. With 8192 codes, 4096
            rows need 128 MB for distances.
    """

    rows = 4096

    def __init__(self, num_codes: int, channels: int, operations: Operations) -> None:
        super().__init__()
        self.embedding = operations.Embedding(num_codes, channels)

    def codes(self, z: Tensor) -> Tensor:
        """Return the index of the nearest code for each vector. z: [B,C,h,w] -> int64 [B,h,w]"""
        codebook = self._codebook(z)
        square = codebook.square().sum(dim=1)  # [K]
        vectors = rearrange(z.float(), "b c h w -> (b h w) c")
        with _without_autocast(z.device):  # autocast would round the distances
            nearest = [  # the code e with the smallest |e|^2 - 2 z.e also has the smallest |z - e|
                torch.addmm(square, rows, codebook.T, alpha=-2).argmin(dim=1)
                for rows in vectors.split(self.rows)
            ]
        return torch.cat(nearest).view(z.shape[0], *z.shape[2:])

    def forward(self, z: Tensor) -> Tensor:
        """[B,C,h,w] -> float32 [B,C,h,w]"""
        return F.embedding(self.codes(z), self._codebook(z)).movedim(3, 1)

    def _codebook(self, z: Tensor) -> Tensor:
        # ComfyUI may have offloaded the codebook to another device.
        return self.embedding.weight.to(z.device, torch.float32)  # [K,C]


def _without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Disable autocast if it is enabled. The check is needed because `torch.autocast` raises an
    error on devices without autocast, such as DirectML."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


class Autoencoder(nn.Module):
    """Encodes images in [-1,1] to continuous latents of 1/4 size, and decodes quantised latents.

    Attributes:
        config: sizes of the network.
        compute_dtype: dtype of activations. Inputs are cast to it; outputs are float32.
        compiled: whether the network is compiled for each input shape.
    """

    def __init__(self, config: AutoencoderConfig, operations: Operations = nn) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = torch.float32
        self.compiled = False
        self.encoder = Encoder(config, operations)
        self.decoder = Decoder(config, operations)
        self.quantize = Quantizer(config.num_codes, config.embed_channels, operations)
        self.quant_conv = operations.Conv2d(config.latent_channels, config.embed_channels, 1)
        self.post_quant_conv = operations.Conv2d(config.embed_channels, config.latent_channels, 1)

    def encode(self, x: Tensor) -> Tensor:
        """Encode an image, without quantisation.

        Args:
            x: [B,3,H,W] in [-1,1]; H and W multiples of 4.

        Returns:
            The continuous latent, float32 [B,C,H/4,W/4].

        Raises:
            ValueError: wrong number of channels, or height or width not a multiple of 4.
        """
        factor = 2 ** (len(self.config.level_channels) - 1)
        if x.ndim != 4 or x.shape[1] != self.config.image_channels:
            raise ValueError(
                f"encode got {tuple(x.shape)}, expected [B,{self.config.image_channels},H,W]."
            )
        if x.shape[2] == 0 or x.shape[3] == 0 or x.shape[2] % factor or x.shape[3] % factor:
            raise ValueError(
                f"encode got height {x.shape[2]} and width {x.shape[3]}, expected multiples of "
                f"{factor}."
            )
        return self.quant_conv(self.encoder(x.to(self.compute_dtype))).float()

    def decode(self, z: Tensor, quantize: bool = True) -> Tensor:
        """Decode a latent.

        Args:
            z: [B,C,h,w].
            quantize: whether to replace each vector by its nearest code first, as LPNSR does.

        Returns:
            Image, float32 [B,3,4h,4w], in about [-1,1], not clamped.

        Raises:
            ValueError: z has the wrong number of channels.
        """
        if z.ndim != 4 or z.shape[1] != self.config.embed_channels:
            raise ValueError(
                f"decode got {tuple(z.shape)}, expected [B,{self.config.embed_channels},h,w]."
            )
        if quantize:
            z = self.quantize(z)
        return self.decoder(self.post_quant_conv(z.to(self.compute_dtype))).float()
