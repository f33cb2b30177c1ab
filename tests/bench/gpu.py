"""What a GPU does for a picture, beside the straightforward way: counted where there is none.

`python -m tests.bench.gpu` prints tables, and which of the project's bars are reached. Networks
have the released sizes; their weights need not be right.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lpnsr_impl import Schedule
from lpnsr_impl.config import RELEASED_AUTOENCODER, RELEASED_DENOISER, SCALE
from lpnsr_impl.engine.memory import PlainMemory
from lpnsr_impl.engine.pipeline import run_chain
from lpnsr_impl.engine.upscaler import Method, Upscaler
from lpnsr_impl.models import Autoencoder, Denoiser, NoisePredictor, set_precision
from lpnsr_impl.pictures.images import to_01
from lpnsr_impl.pictures.picture import Picture
from lpnsr_impl.pictures.tiling import plan_tiles

from .baseline import Baseline
from .counting import FAKE, Counts, counted

TILE, FRAME = 256, 128  # LR pixels
FRAMES = 64  # of a clip
KINDS = ("convolution", "matmul", "attention", "norm", "cast", "copy", "elementwise", "other")
LAUNCHES_A_FRAME = 5906
"""Operations for each picture of a clip while pictures went one by one (commit a40fa27)."""

Networks = tuple[Autoencoder, Denoiser, NoisePredictor]


@dataclass(frozen=True)
class Bar:
    """A measured value and the most that it should be."""

    name: str
    value: float
    most: float

    def __str__(self) -> str:
        verdict = "reached" if self.value <= self.most else "MISSED"
        return f"| {self.name} | {self.value:.4g} | {self.most:.4g} | {verdict} |"


def made_networks(dtype: torch.dtype, device: str) -> Networks:
    """The released sizes, in one precision."""
    predictor = replace(RELEASED_DENOISER, in_channels=9, out_channels=6)
    with torch.device(device):
        networks = (
            Autoencoder(RELEASED_AUTOENCODER),
            Denoiser(RELEASED_DENOISER),
            NoisePredictor(predictor),
        )
    for network in networks:
        set_precision(network.requires_grad_(False), dtype, dtype)
    return networks


def calls(who: Any, side: int, batch: int, device: str) -> dict[str, Callable[[], Any]]:
    """One call of each network on square tiles of `side` LR pixels.

    Args:
        who: has `autoencoder`, `denoiser` and `noise_predictor`.
    """
    x = torch.zeros(batch, 3, side, side, device=device)  # latent or LR picture
    image = torch.zeros(batch, 3, SCALE * side, SCALE * side, device=device)
    return {
        "encode": lambda: who.autoencoder.encode(image),
        "denoiser": lambda: who.denoiser(x, 3, x),
        "predictor": lambda: who.noise_predictor(x, x, x, 3),
        "decode": lambda: who.autoencoder.decode(x),
    }


class Plenty(PlainMemory):
    """Of a large GPU, all for us."""

    def budget(self, networks: Any) -> float:
        return 50e9

    spare = budget


class Ours:
    """The pack's networks, and the way of a picture as its nodes go it, to main memory."""

    def __init__(self, autoencoder: Autoencoder, denoiser: Denoiser, predictor: NoisePredictor):
        self.autoencoder, self.denoiser, self.noise_predictor = autoencoder, denoiser, predictor
        device = next(denoiser.parameters()).device
        self._upscaler = Upscaler(autoencoder, denoiser, predictor, {}, device, memory=Plenty())

    def upscale(self, lr: Tensor, seed: int) -> Tensor:
        """[B,3,h,w] in [-1,1] to [B,3,4h,4w] in [0,1]."""
        return self._upscaler.upscale(Picture(to_01(lr)), Method("PreSet-A", seed=seed))


def waits_in_chain(networks: Networks) -> list[str]:
    """Where the host waits for the device between the first and the last call of the denoiser, in
    tiles."""
    _, denoiser, predictor = networks
    plan = plan_tiles(TILE, TILE, TILE // 2, 32, denoiser.config.size_multiple, batch=4)
    marks: list[int] = []
    with FAKE:
        x = torch.zeros(1, 3, TILE, TILE, device="cuda")

    def chain(counts: Counts) -> None:
        def mark(*_: Any, **__: Any) -> None:
            marks.append(len(counts.waits))

        run_chain(denoiser, predictor, Schedule(), x, x, seed=1, plan=plan, callback=mark)

    counts = counted(chain)
    return counts.waits[marks[0] : marks[-1]]


def count(dtype: torch.dtype) -> tuple[list[dict[str, Any]], list[Bar]]:
    """Rows of the table in one precision, and bars."""
    with FAKE:
        networks = made_networks(dtype, "cuda")
        ours, baseline = Ours(*networks), Baseline(*networks)
        tile, frame = (torch.zeros(1, 3, side, side, device="cuda") for side in (TILE, FRAME))
        clip = torch.zeros(FRAMES, 3, FRAME, FRAME)
        runs = {
            name: {
                **calls(who, TILE, 1, "cuda"),
                "picture": lambda who=who: who.upscale(tile, 1),
                "frame": lambda who=who: who.upscale(frame, 1),
            }
            for name, who in (("ours", ours), ("baseline", baseline))
        }
    for run in runs["ours"].values():
        counted(lambda _, run=run: run())  # from now on what is kept between runs is there
    found = {
        (what, who): counted(lambda _, run=run: run())
        for who, of_who in runs.items()
        for what, run in of_who.items()
    }
    of_clip = counted(lambda _: ours.upscale(clip, 1))
    name = str(dtype).removeprefix("torch.")
    rows = [
        {
            "dtype": name,
            "what": what,
            "who": who,
            "operations": counts.total,
            "operations_by_kind": dict(counts.operations),
            "bytes": dict(counts.written),
            "peak": counts.peak,
            "waits": counts.waits,
        }
        for (what, who), counts in found.items()
    ]
    mine = {what: counts for (what, who), counts in found.items() if who == "ours"}
    bars = [
        *(
            Bar(
                f"{what}: casts / outputs of convolutions",
                mine[what].written["cast"] / mine[what].written["convolution"],
                0.05,
            )
            for what in ("encode", "denoiser", "predictor", "decode")
        ),
        Bar("encode: peak, GB", mine["encode"].peak / 1e9, 1.4),
        Bar("decode: peak, GB", mine["decode"].peak / 1e9, 1.65),
        Bar("denoiser: operations", mine["denoiser"].total, 600),
        Bar("decode: operations", mine["decode"].total, 250),
        Bar("waits inside the chain", len(waits_in_chain(networks)), 0),
        Bar("clip: operations a frame", of_clip.total / FRAMES, LAUNCHES_A_FRAME / 10),
    ]
    return rows, bars


def print_counts(rows: list[dict[str, Any]], bars: list[Bar]) -> None:
    """As tables of Markdown."""
    print(f"| what | who | operations | peak | {' | '.join(KINDS)} |" + "\n" + "|---" * 12 + "|")
    for row in rows:
        written = " | ".join(f"{row['bytes'].get(kind, 0) / 1e9:.2f}" for kind in KINDS)
        head = f"{row['what']} | {row['who']} | {row['operations']} | {row['peak'] / 1e9:.2f}"
        print(f"| {head} | {written} |")
    print("\n| bar | now | at most | |\n|---|---|---|---|")
    print(*bars, sep="\n")


def main() -> None:
    """Print tables, and write all of it to a file if asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="file for all figures")
    path = parser.parse_args().json
    figures: list[dict[str, Any]] = []
    for dtype in (torch.float16, torch.bfloat16):
        rows, bars = count(dtype)
        figures += rows
        print(
            f"\n## {dtype}, counted\n\nA tile of {TILE}x{TILE} LR pixels, and a frame of "
            f"{FRAME}x{FRAME}; in GB: the peak beside weights and input, and what is written.\n"
        )
        print_counts(rows, bars)
    if path:
        path.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
