"""Measure the visibility of the seam at the edge of tileable pictures, for each value of `wrap`.
Uses photos made periodic by blending, and the lite models.

The squared gradient across the edge is divided by the squared gradient a few pixels away. The
measure is this ratio for the result, divided by the ratio for an ideal result, for which picture
and noise are rolled so that the edge is in the middle. 1 means that the seam is invisible.
"""

import math
from typing import get_args
from unittest.mock import patch

import torch
from torch import Tensor

from lpnsr_impl.config import SCALE, Wrap
from lpnsr_impl.engine import engine
from lpnsr_impl.jobs.upscaler import BICUBIC, Method, Upscaler, load_upscaler
from lpnsr_impl.method.sampler import NoiseSource
from lpnsr_impl.pictures.edges import resample
from lpnsr_impl.pictures.picture import Picture
from lpnsr_impl.pictures.reading import picture_files, read_picture

from .seams import BESIDE, HR

LITE = [f"lpnsr_lite_{part}.safetensors" for part in ("autoencoder", "denoiser", "noise_predictor")]
START = "lpnsr_lite_compact_x4.safetensors"
SIZE, BLEND = 256, 64  # size of the pictures, and width of the blended strip, in HR pixels
PICTURES = 6
CASES = [(256, BICUBIC), (256, START), (64, BICUBIC)]  # largest tile, start


def make_periodic(x: Tensor) -> Tensor:
    """Make a picture periodic: blend its first `BLEND` rows and columns with the last ones, and cut
    off the last ones.

    [1,3,SIZE + BLEND,SIZE + BLEND] -> [1,3,SIZE,SIZE]
    """
    rise = torch.sin((torch.arange(BLEND) + 0.5) / BLEND * math.pi / 2) ** 2
    for dim, along in ((2, rise[:, None]), (3, rise)):
        head = torch.lerp(x.narrow(dim, SIZE, BLEND), x.narrow(dim, 0, BLEND), along)
        x = torch.cat([head, x.narrow(dim, BLEND, SIZE - BLEND)], dim)
    return x


def seam(x: Tensor, dim: int) -> float:
    """Return the squared gradient across the wrapped edge, divided by that beside the edge."""
    energy = x.roll(SIZE // 2, dim).diff(dim=dim).square().mean(dim=[0, 1, 5 - dim])
    edge = SIZE // 2 - 1
    return float(energy[edge] / energy[[edge + s * d for d in BESIDE for s in (-1, 1)]].mean())


def upscale_rolled(upscaler: Upscaler, lr: Tensor, method: Method) -> Tensor:
    """Roll picture and noise by half their size, upscale, and roll the result back."""
    half = lr.shape[2] // 2
    draw = engine.seeded_noise

    def rolled_noise(seed: int, num_timesteps: int) -> NoiseSource:
        noise = draw(seed, num_timesteps)
        return lambda kind, t, shape: noise(kind, t, shape).roll((half, half), (2, 3))

    with patch.object(engine, "seeded_noise", rolled_noise):
        x = upscaler.upscale(Picture(lr.roll((half, half), (2, 3))), method)
    return x.roll((-SCALE * half, -SCALE * half), (2, 3))


@torch.inference_mode()
def main() -> None:
    """Print the mean over all pictures for each tile size, start and value of `wrap`."""
    files = picture_files(HR)[:PICTURES]
    crops = [read_picture(p)[None, :, : SIZE + BLEND, : SIZE + BLEND] for p in files]
    pictures = [resample(make_periodic(x), SIZE // SCALE, SIZE // SCALE, "both") for x in crops]
    pictures = [x.clamp(0, 1) for x in pictures]
    upscaler = load_upscaler(*LITE, [START])
    print("| tile | start | wrap | seam in x | seam in y |\n" + "|---" * 5 + "|")
    for tile, start in CASES:
        upscaler.tile = tile
        method = Method("", start)
        ideal = [upscale_rolled(upscaler, lr, method) for lr in pictures]
        for wrap in get_args(Wrap):
            results = [upscaler.upscale(Picture(lr, wrap=wrap), method) for lr in pictures]
            ratios = [
                sum(seam(x, dim) for x in results) / sum(seam(x, dim) for x in ideal)
                for dim in (3, 2)
            ]
            print(f"| {tile} | {start} | {wrap} | {ratios[0]:.3f} | {ratios[1]:.3f} |", flush=True)


if __name__ == "__main__":
    main()
