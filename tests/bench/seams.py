"""Visibility of tile borders: blending the output of every network call, as the pack does, compared
with blending finished tiles. Photos, lite models.

The measure is the squared gradient across tile borders divided by that beside them, relative to the
same ratio in the untiled result. 1 means invisible.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from lpnsr_impl.engine.noise import seeded_noise
from lpnsr_impl.engine.pipeline import decode_latent, encode_start, run_chain
from lpnsr_impl.pictures.tiling import TilePlan, apply_tiled, plan_tiles
from torch import Tensor

from lpnsr_impl import Schedule, wavelet_color_fix
from lpnsr_impl.config import SCALE
from lpnsr_impl.method.sampler import sample
from lpnsr_impl.pictures.images import bicubic_upsample, reflect_pad, resize, to_01, to_pm1
from lpnsr_impl.pictures.reading import picture_files, read_picture

from .speed import Networks, load, psnr

HR = Path(__file__).parents[1] / "data" / "eval" / "hr"
CASES = [(192, 128, 64, 4), (384, 256, 128, 1), (768, 512, 256, 1)]  # w, h, tile, pictures
OVERLAPS = (16, 32)
SEED = 0
BESIDE = range(6, 15)  # pixels


def every_step(networks: Networks, lr: Tensor, plan: TilePlan | None) -> Tensor:
    """Upscale as the pack does, blending tiles in every step."""
    autoencoder, denoiser, predictor = networks
    start = to_01(bicubic_upsample(lr))
    size = denoiser.config.padded(*lr.shape[2:])
    y0 = encode_start(autoencoder, start, size, plan)
    x0 = run_chain(denoiser, predictor, Schedule(), y0, lr, seed=SEED, plan=plan)
    sr = decode_latent(autoencoder, x0, lr.shape[2:], plan)
    return wavelet_color_fix(sr, start)


def finished_tiles(networks: Networks, lr: Tensor, plan: TilePlan) -> Tensor:
    """Upscale each tile on its own, with its part of the same noise, and blend the results."""
    autoencoder, denoiser, predictor = networks
    draw = seeded_noise(SEED)
    shape = torch.Size((1, 3, *plan.size))
    kinds = [("init", 4), ("step", 4), ("step", 3), ("step", 2)]
    noises = [draw(kind, t, shape) for kind, t in kinds]

    def upscale(lr: Tensor, *noises: Tensor) -> Tensor:
        parts = dict(zip(kinds, noises, strict=True))
        y0 = autoencoder.encode(bicubic_upsample(lr))
        x0 = sample(
            denoiser, predictor, Schedule(), y0, lr, noise=lambda kind, t, _: parts[kind, t]
        )
        sr = decode_latent(autoencoder, x0, lr.shape[2:])
        return wavelet_color_fix(sr, to_01(bicubic_upsample(lr)))

    padded = reflect_pad(lr, *plan.size)
    h, w = lr.shape[2:]
    return apply_tiled(upscale, [padded, *noises], plan, output_scale=SCALE)[
        :, :, : SCALE * h, : SCALE * w
    ]


def seam(x: Tensor, plan: TilePlan) -> float:
    """Return the squared gradient across the borders of tiles, relative to that beside them."""
    on, beside = 0.0, 0.0
    for dim, starts, tile, size in (
        (2, plan.rows, plan.tile[0], x.shape[2]),
        (3, plan.columns, plan.tile[1], x.shape[3]),
    ):
        energy = x.diff(dim=dim).square().mean(dim=[d for d in range(4) if d != dim])
        for border in borders(starts, tile, size):
            on += float(energy[border - 1])
            near = [border - 1 + sign * d for d in BESIDE for sign in (-1, 1)]
            beside += float(torch.stack([energy[i] for i in near if 0 <= i < len(energy)]).mean())
    return on / beside


def borders(starts: Sequence[int], tile: int, size: int) -> list[int]:
    """List the first pixels after the edges of tiles, inside the picture."""
    edges = {SCALE * edge for start in starts for edge in (start, start + tile)}
    return sorted(edge for edge in edges if 0 < edge < size)


@torch.inference_mode()
def main() -> None:
    """Print a table of means over pictures."""
    networks = load("lite")
    multiple = networks[1].config.size_multiple
    print("| LR | tiles | overlap | method | seam | PSNR to untiled |\n" + "|---" * 6 + "|")
    for w, h, tile, count in CASES:
        pictures = [to_pm1(resize(read_picture(p)[None], h, w)) for p in picture_files(HR)[:count]]
        pictures = [x.clamp(-1, 1) for x in pictures]
        wholes = [every_step(networks, lr, None) for lr in pictures]
        for overlap in OVERLAPS:
            plan = plan_tiles(h, w, tile, overlap, multiple)
            for name, method in (("every step", every_step), ("finished", finished_tiles)):
                results = [method(networks, lr, plan) for lr in pictures]
                pairs = list(zip(results, wholes, strict=True))
                relative = sum(seam(a, plan) / seam(b, plan) for a, b in pairs) / count
                mean_psnr = sum(psnr(a, b) for a, b in pairs) / count
                row = f"{w}x{h} | {len(plan)} of {tile} | {overlap} | {name}"
                print(
                    f"| {row} | {relative:.3f} | {mean_psnr:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
