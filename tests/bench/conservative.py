"""The table "Conservative or creative" of docs/settings.md: agreement of two seeds, and LR-PSNR, by
setting; and agreement of tiled with untiled results. PreSet-B with the lite models.

python -m tests.bench.conservative
"""

import itertools
from typing import Any

import torch
from lpnsr_impl.engine.passes import upscale
from lpnsr_impl.engine.tiles import Tiling
from spandrel import ModelLoader
from torch import Tensor

from lpnsr_impl.config import Wrap
from lpnsr_impl.engine.engine import Engine, Sampling
from lpnsr_impl.engine.memory import PlainMemory, Resident
from lpnsr_impl.files.folders import find_weights
from lpnsr_impl.pictures.picture import Picture
from lpnsr_impl.pictures.reading import picture_files, read_picture

from .seams import HR
from .speed import load, psnr
from .ways import Residents

LR = HR.parent / "lr"
PICTURES, WIDTH, HEIGHT = 4, 96, 64
SEEDS = (0, 1, 2)
TILES = (64, 32)
WAYS: dict[str, tuple[dict[str, Any], bool]] = {  # arguments of Sampling; LR consistency
    "steps 1": ({"steps": 1}, False),
    "predictor_mode mean": ({"predictor_mode": "mean"}, False),
    "kappa 1": ({"kappa": 1.0}, False),
    "lr_consistency": ({}, True),
    "steps 2": ({"steps": 2}, False),
    "PreSet-B": ({}, False),
    "use_predictor off": ({"predictor_on": {}}, False),
    "kappa 3": ({"kappa": 3.0}, False),
}


def pieces() -> list[Tensor]:
    """Read centre crops of degraded pictures, [1,3,h,w] in [0,1]."""
    found: list[Tensor] = []
    for path in picture_files(LR)[:PICTURES]:
        lr = read_picture(path)[None]
        y, x = (lr.shape[2] - HEIGHT) // 2, (lr.shape[3] - WIDTH) // 2
        found.append(lr[:, :, y : y + HEIGHT, x : x + WIDTH].contiguous())
    return found


@torch.inference_mode()
def main() -> None:
    """Print the tables."""
    autoencoder, denoiser, predictor = (Resident(x, torch.device("cpu")) for x in load("lite"))
    engine = Engine(Residents(autoencoder, denoiser, predictor), PlainMemory())
    compact = ModelLoader("cpu").load_from_file(
        str(find_weights("lpnsr_lite_compact_x4.safetensors"))
    )

    def start(lr: Tensor, wrap: Wrap) -> Tensor:
        return compact(lr).clamp(0, 1)

    lrs = pieces()
    print("| | two seeds agree to | LR-PSNR |\n|---|---|---|")
    for name, (options, consistent) in WAYS.items():
        apart: list[float] = []
        to_lr: list[float] = []
        for lr in lrs:
            results: list[Tensor] = []
            for seed in SEEDS:
                sampling = Sampling(seed, **options)
                sr, of = upscale(engine, Picture(lr), start, sampling, lr_consistency=consistent)
                results.append(sr)
                to_lr.append(of)
            apart += [psnr(a, b) for a, b in itertools.combinations(results, 2)]
        means = [sum(values) / len(values) for values in (apart, to_lr)]
        print(f"| {name} | {means[0]:.1f} dB | {means[1]:.1f} dB |", flush=True)
    print("\n| tiles | agree with none to |\n|---|---|")
    for tile in TILES:
        tiled = Engine(engine.networks, PlainMemory(), Tiling(tile))
        apart = [
            psnr(*(upscale(each, Picture(lr), start, Sampling())[0] for each in (engine, tiled)))
            for lr in lrs
        ]
        print(f"| {tile} | {sum(apart) / len(apart):.1f} dB |", flush=True)


if __name__ == "__main__":
    main()
