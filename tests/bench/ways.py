"""The pack's pipeline as the benchmarks run it, and networks with arbitrary weights for GPUs."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lpnsr_impl.accelerate import accelerate, set_precision
from lpnsr_impl.config import (
    RELEASED_AUTOENCODER,
    RELEASED_DENOISER,
    SCALE,
    AutoencoderConfig,
    Family,
    UNetConfig,
)
from lpnsr_impl.engine import engine
from lpnsr_impl.engine.finish import Finish
from lpnsr_impl.engine.memory import USABLE, Managed, Memory
from lpnsr_impl.engine.tiled import Tiling
from lpnsr_impl.method.sampler import Sampling
from lpnsr_impl.models import Autoencoder, Denoiser, NoisePredictor
from lpnsr_impl.pictures.images import to_01
from lpnsr_impl.pictures.picture import Picture, upsample_bicubic

LIMIT_BYTES = 20e9
"""GPU memory that the benchmarks may use, in bytes."""

Networks = tuple[Autoencoder, Denoiser, NoisePredictor]


@dataclass(frozen=True)
class Sizes:
    """Configs of the networks; sides of square tiles, picture and frames, in LR pixels; number of
    frames."""

    autoencoder: AutoencoderConfig = RELEASED_AUTOENCODER
    denoiser: UNetConfig = RELEASED_DENOISER
    tiles: tuple[int, ...] = (256, 512)
    picture: int = 1024
    frame: int = 128
    frames: int = 64


SMALL = Sizes(
    AutoencoderConfig((32, 32, 32), num_res_blocks=1, num_codes=64),
    UNetConfig(
        model_channels=32,
        level_channels=(32, 32),
        num_res_blocks=1,
        swin_width=32,
        swin_depth=1,
        mlp_width=64,
        window_size=4,
        trained_resolution=16,
    ),
    tiles=(16,),
    picture=24,
    frame=16,
    frames=2,
)
"""Small sizes, to test the benchmarks."""


def make_networks(
    dtype: torch.dtype, device: str, sizes: Sizes, compiled: bool = False
) -> Networks:
    """Make networks with arbitrary weights, all in the same dtype."""
    predictor = replace(sizes.denoiser, in_channels=9, out_channels=6)
    with torch.device(device):
        networks = (
            Autoencoder(sizes.autoencoder),
            Denoiser(sizes.denoiser),
            NoisePredictor(predictor),
        )
    for network in networks:
        for module in network.modules():  # move buffers, which constructors put on the CPU
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(device))
        set_precision(network.requires_grad_(False), dtype, dtype)
        accelerate(network, torch.device(device), compiled)
    return networks


def calls(who: Any, side: int, batch: int, device: str) -> dict[str, Callable[[], Any]]:
    """Make functions that call each network once on square tiles.

    Args:
        who: object with `autoencoder`, `denoiser` and `noise_predictor`.
        side: height and width of the tiles in LR pixels.
        batch: number of tiles.
        device: device of the networks.
    """
    x = torch.zeros(batch, 3, side, side, device=device)  # latents or LR pictures
    image = torch.zeros(batch, 3, SCALE * side, SCALE * side, device=device)
    return {
        "encode": lambda: who.autoencoder.encode(image),
        "denoiser": lambda: who.denoiser(x, 3, x),
        "predictor": lambda: who.noise_predictor(x, x, x, 3),
        "decode": lambda: who.autoencoder.decode(x),
    }


class Card(Memory):
    """Memory of a GPU with `LIMIT_BYTES`, all of it free."""

    def available(self, networks: Any) -> float:
        """Return the usable bytes; the same for all networks."""
        return USABLE * LIMIT_BYTES

    free = available


class Ours:
    """PreSet-A in 4 steps with the pack's engine, as in the nodes.

    Args:
        autoencoder, denoiser, noise_predictor: networks on one device.
        memory: memory for which the engine plans tiles and batches.
        tiling: tile size and overlap; by default, the largest tiles that fit.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        denoiser: Denoiser,
        noise_predictor: NoisePredictor,
        memory: Memory | None = None,
        tiling: Tiling | None = None,
    ) -> None:
        self.autoencoder, self.denoiser = autoencoder, denoiser
        self.noise_predictor = noise_predictor
        device = next(denoiser.parameters()).device
        networks = engine.Networks(
            Family(),
            Managed(autoencoder, device),
            Managed(denoiser, device),
            Managed(noise_predictor, device),
        )
        self.engine = engine.Engine(networks, memory or Memory(), tiling)

    def upscale(
        self, lr: Tensor, seed: int, stage: Callable[[str], None] = lambda _: None
    ) -> tuple[Tensor, Tensor]:
        """Upscale pictures x4.

        Args:
            lr: LR pictures, [B,3,h,w] in [-1,1].
            seed: seed of the noise.
            stage: called with the name of each stage when it is done.

        Returns:
            The results, [B,3,4h,4w] in [0,1], and the final latents.
        """
        picture = Picture(to_01(lr))
        y0 = self.engine.encode(self.engine.make_starts(picture, upsample_bicubic), picture)
        stage("encode")
        x0 = self.engine.sample(y0, picture, Sampling(seed))
        stage("4 steps")
        sr, _ = self.engine.decode(x0, picture, Finish())
        stage("decode")
        return sr, x0
