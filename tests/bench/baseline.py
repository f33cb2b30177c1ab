"""A straightforward implementation of the networks, as the baseline of the benchmarks.

It uses contiguous NCHW tensors and a single dtype. It recomputes the position bias and shift mask
of all windows in every call, and quantises with the full matrix of distances to the codes.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.func import functional_call

from lpnsr_impl import Schedule, wavelet_color_fix
from lpnsr_impl.config import SCALE
from lpnsr_impl.method.noise import seeded_noise
from lpnsr_impl.method.sampler import sample
from lpnsr_impl.models import Autoencoder, Denoiser, NoisePredictor
from lpnsr_impl.models.layers import NORM_GROUPS, BorderedGroupNorm, timestep_embedding
from lpnsr_impl.models.unet import LOGVAR_RANGE
from lpnsr_impl.pictures.images import bicubic_upsample, reflect_pad, to_01

MULTIPLE = 64


class Baseline:
    """PreSet-A in 4 steps with the baseline networks.

    Args:
        autoencoder, denoiser, noise_predictor: networks of the pack; the baseline takes over
            their weights and dtype.
        published: imitate LPNSR's published inference code, which pads pictures to powers of two
            and computes the full attention matrix.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        denoiser: Denoiser,
        noise_predictor: NoisePredictor,
        *,
        published: bool = False,
    ) -> None:
        self.autoencoder = PlainAutoencoder(autoencoder, published)
        self._denoiser = PlainUNet(denoiser, published)
        self._predictor = PlainUNet(noise_predictor, published)
        self._padded = power_of_two if published else next_multiple

    def denoiser(self, x: Tensor, t_index: int, lr: Tensor) -> Tensor:
        """See `Denoiser`."""
        return self._denoiser.run(torch.cat([x, lr], dim=1), t_index)

    def noise_predictor(
        self, x_t: Tensor, x0: Tensor, lr: Tensor, t_index: int
    ) -> tuple[Tensor, Tensor]:
        """See `NoisePredictor`."""
        both = self._predictor.run(torch.cat([x_t, x0, lr], dim=1), t_index)
        mean, logvar = both.chunk(2, dim=1)
        return mean, logvar.clamp(*LOGVAR_RANGE)

    def upscale(
        self, lr: Tensor, seed: int, stage: Callable[[str], None] = lambda _: None
    ) -> tuple[Tensor, Tensor]:
        """Upscale a picture x4.

        Args:
            lr: LR picture, [1,3,h,w] in [-1,1].
            seed: seed of the noise.
            stage: called with the name of each stage when it is done.

        Returns:
            The result, [1,3,4h,4w] in [0,1], and the final latent.
        """
        h, w = lr.shape[2:]
        padded = reflect_pad(lr, self._padded(h), self._padded(w))
        y0 = self.autoencoder.encode(bicubic_upsample(padded))
        stage("encode")
        noise = seeded_noise(seed)
        x0 = sample(self.denoiser, self.noise_predictor, Schedule(), y0, padded, noise=noise)
        stage("4 steps")
        sr = to_01(self.autoencoder.decode(x0))
        sr = wavelet_color_fix(sr, to_01(bicubic_upsample(padded)))
        stage("decode")
        return sr[:, :, : SCALE * h, : SCALE * w], x0


def next_multiple(size: int) -> int:
    """Round up to a multiple of `MULTIPLE`, so that attention windows fit at all levels."""
    return -(-size // MULTIPLE) * MULTIPLE


def power_of_two(size: int) -> int:
    """Round up to a power of two, at least `MULTIPLE`."""
    return max(MULTIPLE, 1 << (size - 1).bit_length())


class _Plain:
    """Base class of the baseline networks. Runs layers of one of the pack's networks by name."""

    def __init__(self, network: nn.Module, published: bool) -> None:
        self.config: Any = network.config
        self.dtype: torch.dtype = network.compute_dtype
        self.published = published
        self.weights = {name: w.detach().contiguous() for name, w in network.named_parameters()}

    def has(self, name: str) -> bool:
        return f"{name}.weight" in self.weights

    def conv(self, name: str, x: Tensor, **how: Any) -> Tensor:
        return F.conv2d(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], **how)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def norm(self, name: str, x: Tensor, groups: int, eps: float) -> Tensor:
        weight, bias = (self.weights[f"{name}.{part}"].to(x) for part in ("weight", "bias"))
        if not groups:
            return torch.addcmul(bias.view(-1, 1, 1), weight.view(-1, 1, 1), x)
        return F.group_norm(x, groups, weight, bias, eps)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """Scaled dot-product attention. q, k, v: [b,heads,n,d] -> [b,heads,n,d]."""
        if not self.published:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        scores = q * q.shape[3] ** -0.5 @ k.mT
        return torch.softmax(scores if bias is None else scores + bias, dim=-1) @ v


class PlainUNet(_Plain):
    """Baseline implementation of the Swin-U-Net."""

    def run(self, x: Tensor, t_index: int) -> Tensor:
        """Run the network. x: [B,in,h,w] -> float32 [B,out,h,w]"""
        index = torch.full((len(x),), t_index, device=x.device)
        emb = timestep_embedding(index, self.config.model_channels).to(self.dtype)
        emb = self.linear("time_embed.2", F.silu(self.linear("time_embed.0", emb)))
        h, level, skips, self.height = x.to(self.dtype), 0, [], x.shape[2]
        depth = len(self.config.level_channels)
        blocks = depth * (self.config.num_res_blocks + 1)  # number of input and of output blocks
        for i in range(blocks):
            level += self.has(f"input_blocks.{i}.0.op")
            h = self.block(f"input_blocks.{i}", h, emb, level)
            skips.append(h)
        h = self.block("middle_block", h, emb, level)
        for i in range(blocks):
            name = f"output_blocks.{i}"
            h = self.block(name, torch.cat([h, skips.pop()], dim=1), emb, level)
            level -= any(self.has(f"{name}.{j}.conv") for j in (1, 2))
        return self.conv("out.2", F.silu(self.group_norm("out.0", h)), padding=1).float()

    def group_norm(self, name: str, x: Tensor) -> Tensor:
        if self.config.norm_size is None:
            return self.norm(name, x, NORM_GROUPS, 1e-5)
        norm = BorderedGroupNorm(x.shape[1], self.config.norm_size * x.shape[2] // self.height)
        weights = {part: self.weights[f"{name}.{part}"] for part in ("weight", "bias")}
        return functional_call(norm, weights, (x,))

    def block(self, name: str, x: Tensor, emb: Tensor, level: int) -> Tensor:
        for layer in (f"{name}.{j}" for j in range(3)):
            if self.has(layer):
                x = self.conv(layer, x, padding=1)
            elif self.has(f"{layer}.in_layers.0"):
                x = self.residual(layer, x, emb)
            elif self.has(f"{layer}.patch_embed.proj"):
                x = self.swin(layer, x, level)
            elif self.has(f"{layer}.op"):
                x = self.conv(f"{layer}.op", x, stride=2, padding=1)
            elif self.has(f"{layer}.conv"):
                x = self.conv(f"{layer}.conv", F.interpolate(x, scale_factor=2.0), padding=1)
        return x

    def residual(self, name: str, x: Tensor, emb: Tensor) -> Tensor:
        h = F.silu(self.group_norm(f"{name}.in_layers.0", x))
        h = self.conv(f"{name}.in_layers.2", h, padding=1)
        shifts = self.linear(f"{name}.emb_layers.1", F.silu(emb))[:, :, None, None]
        scale, shift = shifts.chunk(2, dim=1)
        h = F.silu(self.group_norm(f"{name}.out_layers.0", h) * (1 + scale) + shift)
        h = self.conv(f"{name}.out_layers.3", h, padding=1)
        skip = f"{name}.skip_connection"
        return (self.conv(skip, x) if self.has(skip) else x) + h

    def swin(self, name: str, x: Tensor, level: int) -> Tensor:
        x = self.conv(f"{name}.patch_embed.proj", x)
        for i in range(self.config.swin_depth):
            block = f"{name}.blocks.{i}"
            shift = self.config.shift_at(level) if i % 2 else 0
            h = self.group_norm(f"{block}.norm1", x)
            x = x + self.windows(f"{block}.attn", h, self.config.window_at(level), shift)
            h = self.conv(f"{block}.mlp.fc1", self.group_norm(f"{block}.norm2", x))
            x = x + self.conv(f"{block}.mlp.fc2", F.gelu(h))
        return self.conv(f"{name}.patch_unembed.proj", x)

    def windows(self, name: str, x: Tensor, window: int, shift: int) -> Tensor:
        """Windowed attention, [b,c,h,w] -> [b,c,h,w]. h and w must be multiples of `window`."""
        b, c, h, w = x.shape
        heads = c // self.config.head_width
        sizes = {"nh": h // window, "nw": w // window, "a": window, "b": window}
        x = torch.roll(x, (-shift, -shift), dims=(2, 3))
        x = rearrange(x, "n c (nh a) (nw b) -> (nh nw n) (a b) c", **sizes)
        q, k, v = rearrange(
            self.linear(f"{name}.qkv", x), "b n (three h d) -> three b h n d", three=3, h=heads
        )
        table = self.weights[f"{name}.relative_position_bias_table"].to(x)
        bias = rearrange(table[_relative_positions(window, x.device)], "n m h -> h n m")
        mask = torch.zeros(len(x), 1, window**2, window**2, device=x.device, dtype=x.dtype)
        # The released networks mask only the bottom row of windows. The mask blocks attention
        # between the left and the right part of each window.
        if shift:
            right = torch.arange(window, device=x.device).repeat(window) >= window - shift
            mask[-b * sizes["nw"] :].masked_fill_(right[:, None] != right, -100.0)
        x = rearrange(self.attend(q, k, v, bias + mask), "b h n d -> b n (h d)")
        x = self.linear(f"{name}.proj", x)
        x = rearrange(x, "(nh nw n) (a b) c -> n c (nh a) (nw b)", **sizes)
        return torch.roll(x, (shift, shift), dims=(2, 3))


class PlainAutoencoder(_Plain):
    """Baseline implementation of the VQ autoencoder."""

    def encode(self, x: Tensor) -> Tensor:
        """Encode an image to a latent: [B,3,H,W] -> float32 [B,C,H/4,W/4]"""
        h = self.conv("encoder.conv_in", x.to(self.dtype), padding=1)
        for i in range(len(self.config.level_channels)):
            for j in range(self.config.num_res_blocks):
                h = self.residual(f"encoder.down.{i}.block.{j}", h)
            if self.has(f"encoder.down.{i}.downsample.conv"):
                h = F.pad(h, (0, 1, 0, 1))
                h = self.conv(f"encoder.down.{i}.downsample.conv", h, stride=2)
        h = self.out("encoder", self.middle("encoder.mid", h))
        return self.conv("quant_conv", h).float()

    def decode(self, z: Tensor) -> Tensor:
        """Quantise and decode a latent: [B,C,h,w] -> float32 [B,3,4h,4w]"""
        codebook = self.weights["quantize.embedding.weight"].float()
        codes = F.embedding(self.codes(z), codebook)
        h = self.conv("post_quant_conv", rearrange(codes, "b h w c -> b c h w").to(self.dtype))
        h = self.middle("decoder.mid", self.conv("decoder.conv_in", h, padding=1))
        for i in reversed(range(len(self.config.level_channels))):
            for j in range(self.config.num_res_blocks + 1):
                h = self.residual(f"decoder.up.{i}.block.{j}", h)
            if self.has(f"decoder.up.{i}.upsample.conv"):
                h = F.interpolate(h, scale_factor=2.0)
                h = self.conv(f"decoder.up.{i}.upsample.conv", h, padding=1)
        return self.out("decoder", h).float()

    def codes(self, z: Tensor) -> Tensor:
        """Return the index of the nearest code at each position: [B,C,h,w] -> [B,h,w]."""
        vectors = rearrange(z.float(), "b c h w -> (b h w) c")
        codebook = self.weights["quantize.embedding.weight"].float()
        distances = (
            vectors.square().sum(dim=1, keepdim=True)
            + codebook.square().sum(dim=1)
            - 2 * vectors @ codebook.T
        )
        return distances.argmin(dim=1).view(z.shape[0], *z.shape[2:])

    def group_norm(self, name: str, x: Tensor) -> Tensor:
        return self.norm(name, x, self.config.norm_groups, 1e-6)

    def residual(self, name: str, x: Tensor) -> Tensor:
        h = self.conv(f"{name}.conv1", F.silu(self.group_norm(f"{name}.norm1", x)), padding=1)
        h = self.conv(f"{name}.conv2", F.silu(self.group_norm(f"{name}.norm2", h)), padding=1)
        shortcut = f"{name}.nin_shortcut"
        return (self.conv(shortcut, x) if self.has(shortcut) else x) + h

    def middle(self, name: str, x: Tensor) -> Tensor:
        x = self.residual(f"{name}.block_1", x)
        if self.has(f"{name}.attn_1.q"):
            h = self.group_norm(f"{name}.attn_1.norm", x)
            q, k, v = (
                rearrange(self.conv(f"{name}.attn_1.{part}", h), "b c h w -> b 1 (h w) c")
                for part in "qkv"
            )
            q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
            h = rearrange(self.attend(q, k, v), "b 1 (h w) c -> b c h w", h=x.shape[2])
            x = x + self.conv(f"{name}.attn_1.proj_out", h)
        return self.residual(f"{name}.block_2", x)

    def out(self, name: str, x: Tensor) -> Tensor:
        return self.conv(
            f"{name}.conv_out", F.silu(self.group_norm(f"{name}.norm_out", x)), padding=1
        )


def _relative_positions(window: int, device: torch.device) -> Tensor:
    """Return the row of the position bias table for each pair of positions in a window.

    Returns:
        int64 [N,N], where N = window².
    """
    y, x = torch.meshgrid(2 * [torch.arange(window, device=device)], indexing="ij")
    y, x = y.flatten(), x.flatten()
    dy, dx = y[:, None] - y + window - 1, x[:, None] - x + window - 1
    return dy * (2 * window - 1) + dx
