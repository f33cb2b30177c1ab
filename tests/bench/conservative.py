"""Print the table "Conservative or creative" of docs/settings.md: for each setting, the PSNR
between the results of two seeds, and the LR-PSNR. Also compare tiled with untiled results. Uses
PreSet-B and the lite models.

Usage: `python -m tests.bench.conservative`
"""

import itertools
from typing import Any

import torch
from spandrel import ModelLoader
from torch import Tensor

from lpnsr_impl.engine.engine import Engine
from lpnsr_impl.engine.finish import Finish
from lpnsr_impl.engine.memory import Memory
from lpnsr_impl.engine.tiled import Tiling
from lpnsr_impl.files.folders import find_weights
from lpnsr_impl.method.sampler import Sampling
from lpnsr_impl.pictures.picture import Picture
from lpnsr_impl.pictures.reading import picture_files, read_picture

from .seams import HR
from .speed import load, psnr
from .ways import Ours

LR = HR.parent / "lr"
PICTURES, WIDTH, HEIGHT = 4, 96, 64
SEEDS = (0, 1, 2)
TILES = (64, 32)
WAYS: dict[str, tuple[dict[str, Any], bool]] = {  # (arguments of Sampling, lr_consistency)
    "steps 1": ({"steps": 1}, False),
    "predictor_mode mean": ({"predictor_mode": "mean"}, False),
    "kappa 1": ({"kappa": 1.0}, False),
    "lr_consistency": ({}, True),
    "steps 2": ({"steps": 2}, False),
    "PreSet-B": ({}, False),
    "use_predictor off": ({"predictor_on": {}}, False),
    "kappa 3": ({"kappa": 3.0}, False),
}


def pieces() -> list[Picture]:
    """Read degraded pictures and crop their centres."""
    found: list[Picture] = []
    for path in picture_files(LR)[:PICTURES]:
        lr = read_picture(path)[None]
        y, x = (lr.shape[2] - HEIGHT) // 2, (lr.shape[3] - WIDTH) // 2
        found.append(Picture(lr[:, :, y : y + HEIGHT, x : x + WIDTH].contiguous()))
    return found


@torch.inference_mode()
def main() -> None:
    """Print both tables."""
    engine = Ours(*load("lite")).engine
    compact = ModelLoader("cpu").load_from_file(
        str(find_weights("lpnsr_lite_compact_x4.safetensors"))
    )

    def start(lr: Picture) -> Tensor:
        return compact(lr.rgb).clamp(0, 1)

    lrs = pieces()
    print("| | two seeds agree to | LR-PSNR |\n|---|---|---|")
    for name, (options, consistent) in WAYS.items():
        apart: list[float] = []
        to_lr: list[float] = []
        for lr in lrs:
            results: list[Tensor] = []
            for seed in SEEDS:
                sampling = Sampling(seed, **options)
                finish = Finish(lr_consistency=consistent)
                sr, of = engine.upscale(lr, start, sampling, finish)
                results.append(sr)
                to_lr.append(of)
            apart += [psnr(a, b) for a, b in itertools.combinations(results, 2)]
        means = [sum(values) / len(values) for values in (apart, to_lr)]
        print(f"| {name} | {means[0]:.1f} dB | {means[1]:.1f} dB |", flush=True)
    print("\n| tiles | PSNR to untiled |\n|---|---|")
    for tile in TILES:
        tiled = Engine(engine.networks, Memory(), Tiling(tile))
        apart = [
            psnr(*(e.upscale(lr, start, Sampling(), Finish())[0] for e in (engine, tiled)))
            for lr in lrs
        ]
        print(f"| {tile} | {sum(apart) / len(apart):.1f} dB |", flush=True)


if __name__ == "__main__":
    main()
