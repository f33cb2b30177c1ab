"""The same networks run the straightforward way: what `tests.bench.speed` compares with.

Eager, contiguous NCHW, softmax attention with its whole matrix, position index and shift mask
rebuilt at each call and added to every window, the full matrix of distances to the codes, pictures
mirrored up to powers of two.
"""

import copy
from collections.abc import Callable
from inspect import unwrap
from types import MethodType
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from lpnsr_impl import Schedule, wavelet_color_fix
from lpnsr_impl.config import SCALE
from lpnsr_impl.engine.pipeline import seeded_noise
from lpnsr_impl.method.sampler import sample
from lpnsr_impl.models import (
    Autoencoder,
    Denoiser,
    NoisePredictor,
    autoencoder,
    convolution,
    unet,
)
from lpnsr_impl.models.autoencoder import Attention, Quantizer
from lpnsr_impl.models.convolution import Upsample
from lpnsr_impl.models.swin import (
    SwinBlock,
    WindowAttention,
    relative_position_index,
    shift_mask,
)
from lpnsr_impl.pictures.images import bicubic_upsample, reflect_pad, to_01

SMALLEST = 64


class Baseline:
    """PreSet-A of three networks, in 4 steps.

    Args:
        own: change the networks themselves, which saves the memory of copies.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        denoiser: Denoiser,
        noise_predictor: NoisePredictor,
        *,
        own: bool = False,
    ) -> None:
        networks = (autoencoder, denoiser, noise_predictor)
        self.autoencoder, self.denoiser, self.noise_predictor = (
            straightforward(network if own else copy.deepcopy(network)) for network in networks
        )

    def upscale(self, lr: Tensor, seed: int, stage: Callable[[str], None]) -> tuple[Tensor, Tensor]:
        """[1,3,h,w] in [-1,1] to [1,3,4h,4w] in [0,1], and the last latent; `stage` is called after
        each stage."""
        with (
            patch.object(convolution, "_plain", lambda *_: False),  # the plain layers
            patch.object(autoencoder, "_before_much_memory", lambda *_: None),
        ):
            return self._upscale(lr, seed, stage)

    def _upscale(
        self, lr: Tensor, seed: int, stage: Callable[[str], None]
    ) -> tuple[Tensor, Tensor]:
        h, w = lr.shape[2:]
        padded = reflect_pad(lr, power_of_two(h), power_of_two(w))
        y0 = self.autoencoder.encode(bicubic_upsample(padded))
        stage("encode")
        x0 = sample(
            self.denoiser, self.noise_predictor, Schedule(), y0, padded, noise=seeded_noise(seed)
        )
        stage("4 steps")
        sr = to_01(self.autoencoder.decode(x0))
        sr = wavelet_color_fix(sr, to_01(bicubic_upsample(padded)))
        stage("decode")
        return sr[:, :, : SCALE * h, : SCALE * w], x0


def power_of_two(size: int) -> int:
    """The next power of two, at least what the windows need."""
    return max(SMALLEST, 1 << (size - 1).bit_length())


def straightforward(network: Any) -> Any:
    """The same weights with plain methods, wherever there is a choice of how to compute."""
    network = network.to(memory_format=torch.contiguous_format)
    methods = {
        Attention: {"forward": _attention},
        SwinBlock: {"attention": _shifted_windows},
        WindowAttention: {"forward": _window_attention},
        Quantizer: {"codes": _codes},
        autoencoder.ResBlock: {"forward": _autoencoder_block},
        unet.ResBlock: {"forward": _unet_block},
        Upsample: {"forward": _upsample},
    }
    for module in network.modules():
        for name, method in methods.get(type(module), {}).items():
            setattr(module, name, MethodType(method, module))
    return network


def _autoencoder_block(self: autoencoder.ResBlock, x: Tensor) -> Tensor:
    h = self.conv1(F.silu(self.norm1(x)))
    h = self.conv2(F.silu(self.norm2(h)))
    return self.nin_shortcut(x) + h


def _unet_block(self: unet.ResBlock, x: Tensor, emb: Tensor) -> Tensor:
    h = self.in_layers(x)
    scale, shift = self.emb_layers(emb)[:, :, None, None].chunk(2, dim=1)
    h = self.out_layers[0](h) * (1 + scale) + shift
    return self.skip_connection(x) + self.out_layers[1:](h)


def _upsample(self: Upsample, x: Tensor) -> Tensor:
    return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _attention(self: Attention, x: Tensor) -> Tensor:
    h = self.norm(x)
    q, k, v = (
        rearrange(project(h), "b c h w -> b (h w) c") for project in (self.q, self.k, self.v)
    )
    weights = torch.softmax(q @ k.mT * q.shape[2] ** -0.5, dim=-1)
    return x + self.proj_out(rearrange(weights @ v, "b (h w) c -> b c h w", h=x.shape[2]))


def _shifted_windows(self: SwinBlock, x: Tensor) -> Tensor:
    """For whole windows, which powers of two are."""
    b, _, h, w = x.shape
    sizes = {"nh": h // self.window, "nw": w // self.window, "a": self.window, "b": self.window}
    x = torch.roll(x, (-self.shift, -self.shift), dims=(2, 3))
    x = rearrange(x, "n c (nh a) (nw b) -> (nh nw n) (a b) c", **sizes)
    x = self.attn(x, self.shift, b * sizes["nw"] if self.shift else 0)
    x = rearrange(x, "(nh nw n) (a b) c -> n c (nh a) (nw b)", **sizes)
    return torch.roll(x, (self.shift, self.shift), dims=(2, 3))


def _window_attention(self: WindowAttention, x: Tensor, shift: int, num_masked: int) -> Tensor:
    qkv = rearrange(
        self.qkv(x), "b n (three heads d) -> three b heads n d", three=3, heads=self.num_heads
    )
    q, k, v = qkv
    index = unwrap(relative_position_index)(self.window, x.device)
    bias = rearrange(
        self.relative_position_bias_table[index], "(n m) heads -> heads n m", n=x.shape[1]
    )
    scores = q * q.shape[3] ** -0.5 @ k.mT + bias
    if num_masked:
        mask = torch.zeros(len(x), 1, *scores.shape[2:])
        mask[-num_masked:] = -100.0 * unwrap(shift_mask)(self.window, shift, x.device)
        scores = scores + mask
    x = torch.softmax(scores, dim=-1) @ v
    return self.proj(rearrange(x, "b heads n d -> b n (heads d)"))


def _codes(self: Quantizer, z: Tensor) -> Tensor:
    vectors = rearrange(z, "b c h w -> (b h w) c")
    codebook = self.embedding.weight
    distances = (
        vectors.square().sum(dim=1, keepdim=True)
        + codebook.square().sum(dim=1)
        - 2 * vectors @ codebook.T
    )
    return distances.argmin(dim=1).view(z.shape[0], *z.shape[2:])
