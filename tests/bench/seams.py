"""Compare the visibility of tile borders between the pack, which blends the output of every network
call, and a method that blends finished tiles. Uses photos and the lite models.

The squared gradient across tile borders is divided by the squared gradient a few pixels away. The
measure is this ratio for the tiled result, divided by the ratio for the untiled result. 1 means
that the borders are invisible.
"""

from pathlib import Path

import torch
from torch import Tensor

from lpnsr_impl import Schedule, wavelet_color_fix
from lpnsr_impl.config import SCALE
from lpnsr_impl.engine.memory import Managed, Memory
from lpnsr_impl.engine.progress import Progress
from lpnsr_impl.engine.tile_plan import TilePlan
from lpnsr_impl.engine.tiled import Tiles, Tiling
from lpnsr_impl.method.noise import seeded_noise
from lpnsr_impl.method.sampler import sample
from lpnsr_impl.pictures.edges import resample
from lpnsr_impl.pictures.images import bicubic_upsample, to_01, to_pm1
from lpnsr_impl.pictures.picture import Picture
from lpnsr_impl.pictures.reading import picture_files, read_picture

from .speed import load, psnr
from .ways import Networks, Ours

HR = Path(__file__).parents[1] / "data" / "eval" / "hr"
# (LR width, LR height, tile size, number of pictures)
CASES = [(192, 128, 64, 4), (384, 256, 128, 1), (768, 512, 256, 1)]
OVERLAPS = (16, 32)
SEED = 0
BESIDE = range(6, 15)  # distances from a border that count as beside it, in HR pixels


def plan_tiles(networks: Networks, h: int, w: int, tiling: Tiling) -> TilePlan:
    """Plan the tiles of the U-Nets as the engine does."""
    unets = [Managed(network, torch.device("cpu")) for network in networks[1:]]
    return Tiles(unets, Picture(torch.empty(1, 3, h, w)), Memory(), tiling, Progress()).plan


def blend_finished_tiles(networks: Networks, lr: Tensor, plan: TilePlan) -> Tensor:
    """Upscale each tile separately, with its crop of the noise for the whole picture, and blend the
    results."""
    autoencoder, denoiser, predictor = networks
    draw = seeded_noise(SEED)
    kinds = [("init", 4), ("step", 4), ("step", 3), ("step", 2)]
    noises = [draw(kind, t, lr.shape) for kind, t in kinds]

    def upscale(lr: Tensor, *noises: Tensor) -> Tensor:
        parts = dict(zip(kinds, noises, strict=True))
        start = bicubic_upsample(lr)
        y0 = autoencoder.encode(start)
        x0 = sample(
            denoiser, predictor, Schedule(), y0, lr, noise=lambda kind, t, _: parts[kind, t]
        )
        return wavelet_color_fix(to_01(autoencoder.decode(x0)), to_01(start))

    return plan.apply(upscale, [lr, *noises], output_scale=SCALE)


def seam(x: Tensor, plan: TilePlan) -> float:
    """Return the squared gradient across tile borders, divided by that beside the borders."""
    on, beside = 0.0, 0.0
    for dim, axis in ((2, plan.rows), (3, plan.columns)):
        energy = x.diff(dim=dim).square().mean(dim=[d for d in range(4) if d != dim])
        edges = {edge for start in axis.starts for edge in (start, start + axis.tile)}
        for border in (SCALE * edge for edge in edges if 0 < edge < axis.size):
            on += float(energy[border - 1])
            near = [border - 1 + sign * d for d in BESIDE for sign in (-1, 1)]
            beside += float(torch.stack([energy[i] for i in near if 0 <= i < len(energy)]).mean())
    return on / beside


@torch.inference_mode()
def main() -> None:
    """Print the mean over all pictures for each size, overlap and method."""
    networks = load("lite")
    print("| LR | tiles | overlap | method | seam | PSNR to untiled |\n" + "|---" * 6 + "|")
    for w, h, tile, count in CASES:
        lrs = [resample(read_picture(p)[None], h, w) for p in picture_files(HR)[:count]]
        lrs = [to_pm1(lr.clamp(0, 1)) for lr in lrs]
        untiled = Ours(*networks, tiling=Tiling(max(w, h)))
        wholes = [untiled.upscale(lr, SEED)[0] for lr in lrs]
        for overlap in OVERLAPS:
            tiling = Tiling(tile, overlap)
            plan = plan_tiles(networks, h, w, tiling)
            every_step = Ours(*networks, tiling=tiling)
            methods = {
                "every step": lambda lr, way=every_step: way.upscale(lr, SEED)[0],
                "finished": lambda lr, plan=plan: blend_finished_tiles(networks, lr, plan),
            }
            for name, method in methods.items():
                pairs = [(method(lr), whole) for lr, whole in zip(lrs, wholes, strict=True)]
                relative = sum(seam(a, plan) / seam(b, plan) for a, b in pairs) / count
                mean_psnr = sum(psnr(a, b) for a, b in pairs) / count
                row = f"{w}x{h} | {len(plan)} of {tile} | {overlap} | {name}"
                print(f"| {row} | {relative:.3f} | {mean_psnr:.1f} |", flush=True)


if __name__ == "__main__":
    main()
