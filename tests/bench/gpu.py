"""GPU benchmark of the pack and the baseline. Measures times on a GPU. Without a GPU, counts
operations and memory with FakeTensors, and compares the counts with limits.

Usage: `python -m tests.bench.gpu`
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from lpnsr_impl.engine.tile_plan import TilePlan, plan_axis
from lpnsr_impl.engine.tiled import Tiling
from lpnsr_impl.method.sampler import Sampling
from lpnsr_impl.pictures.picture import Picture

from .bars import Bar, print_bars
from .baseline import Baseline
from .counting import FAKE, Counts, counted
from .gpu_times import LIMIT_SECONDS, Stopwatch, header, line, time_all
from .ways import SMALL, Card, Networks, Ours, Sizes, calls, make_networks

KINDS = ("convolution", "matmul", "attention", "norm", "cast", "copy", "elementwise", "other")
LAUNCHES_A_FRAME = 5906
"""Number of operations per video frame in commit a40fa27, which processed frames one by one."""


def waits_in_chain(networks: Networks, side: int) -> list[str]:
    """Return the places in the code where the host waits for the device, between the first and the
    last denoiser call of a tiled run."""
    engine = Ours(*networks, Card(), Tiling(side // 2, side // 8)).engine
    marks: list[int] = []
    with FAKE:
        x = torch.zeros(1, 3, side, side, device="cuda")

    def chain(counts: Counts) -> None:
        def mark(*_: Any, **__: Any) -> None:
            marks.append(len(counts.waits))

        engine.sample(x, Picture(x), Sampling(), mark)

    counts = counted(chain)
    return counts.waits[marks[0] : marks[-1]]


def tiling_operations() -> dict[str, float]:
    """Count the operations for cutting an image into 16 tiles and blending them, per tile."""
    axis = plan_axis(256, 96, 32, multiple=8, margin=4)
    plan = TilePlan(axis, axis)
    with FAKE:
        x = torch.zeros(1, 3, axis.size, axis.size, device="cuda")
    counts = counted(lambda _: plan.apply(lambda tile: tile, [x]))
    return {kind: number / len(plan) for kind, number in counts.operations.items()}


def count(dtype: torch.dtype, sizes: Sizes) -> list[dict[str, Any]]:
    """Count operations and memory of the pack and the baseline.

    Runs each network once, and upscales a video clip (pack) or a single frame (baseline).
    """
    side = sizes.tiles[0]
    with FAKE:
        networks = make_networks(dtype, "cuda", sizes)
        ours, baseline = Ours(*networks, Card()), Baseline(*networks)
        frame = torch.zeros(1, 3, sizes.frame, sizes.frame, device="cuda")
        clip = torch.zeros(sizes.frames, 3, sizes.frame, sizes.frame)
        mine, theirs = (calls(who, side, 1, "cuda") for who in (ours, baseline))
    for run in mine.values():
        counted(lambda _, run=run: run())  # warm-up: the first run also creates cached tensors
    mine["clip"] = lambda: ours.upscale(clip, 1)
    theirs["frame"] = lambda: baseline.upscale(frame, 1)
    rows = [
        row(who, what, counted(lambda _, run=run: run()))
        for who, runs in (("ours", mine), ("baseline", theirs))
        for what, run in runs.items()
    ]
    waits = waits_in_chain(networks, side)
    rows.append({"who": "ours", "what": "chain in tiles", "waits": waits})
    rows.append({"who": "ours", "what": "tiling", "operations": tiling_operations()})
    return [{"dtype": str(dtype).removeprefix("torch."), **row} for row in rows]


def row(who: str, what: str, counts: Counts) -> dict[str, Any]:
    """Make a row of results. `who` is the implementation, `what` the part that was run."""
    return {
        "who": who,
        "what": what,
        "operations": counts.total,
        "operations_by_kind": dict(counts.operations),
        "bytes": dict(counts.written),
        "peak": counts.peak,
        "waits": counts.waits,
    }


def bars(rows: list[dict[str, Any]], frames: int) -> list[Bar]:
    """Compare counts with their limits. `frames` is the number of frames of the clip."""
    ours = {row["what"]: row for row in rows if row["who"] == "ours"}

    def casts(what: str) -> float:
        written = ours[what]["bytes"]
        return written.get("cast", 0) / written["convolution"]

    return [
        *(
            Bar(f"{what}: casts / outputs of convolutions", casts(what), 0.05)
            for what in ("encode", "denoiser", "predictor", "decode")
        ),
        Bar("encode: peak, GB", ours["encode"]["peak"] / 1e9, 1.4),
        Bar("decode: peak, GB", ours["decode"]["peak"] / 1e9, 1.65),
        Bar("denoiser: operations", ours["denoiser"]["operations"], 600),
        Bar("decode: operations", ours["decode"]["operations"], 250),
        Bar("waits inside the chain", len(ours["chain in tiles"]["waits"]), 0),
        Bar("blending: operations a tile", ours["tiling"]["operations"]["elementwise"], 2),
        Bar("clip: operations a frame", ours["clip"]["operations"] / frames, LAUNCHES_A_FRAME / 10),
    ]


def print_counts(rows: list[dict[str, Any]], frames: int) -> None:
    """Print counts as Markdown tables."""
    print(f"| what | who | operations | peak | {' | '.join(KINDS)} |\n" + "|---" * 12 + "|")
    for figures in rows:
        if "bytes" in figures:
            written = " | ".join(f"{figures['bytes'].get(kind, 0) / 1e9:.2f}" for kind in KINDS)
            head = f"{figures['what']} | {figures['who']} | {figures['operations']}"
            print(f"| {head} | {figures['peak'] / 1e9:.2f} | {written} |")
    print_bars(bars(rows, frames))


def count_all(sizes: Sizes) -> list[dict[str, Any]]:
    """Count in fp16 and bf16, and print tables."""
    figures: list[dict[str, Any]] = []
    for dtype in (torch.float16, torch.bfloat16):
        rows = count(dtype, sizes)
        print(
            f"\n## GPU, counted, {rows[0]['dtype']}\n\nInputs are a tile of {sizes.tiles[0]}² LR "
            f"pixels, a video clip of {sizes.frames} frames of {sizes.frame}², and a single frame. "
            "Peak memory (without weights and inputs) and bytes written by each kind of operation "
            "are in GB.\n"
        )
        print_counts(rows, sizes.frames)
        figures += rows
    return figures


def measure(
    sizes: Sizes, device: str = "", compiled: bool = True, seconds: float = LIMIT_SECONDS
) -> list[dict[str, Any]]:
    """Print times on a device (by default the GPU), or counts if there is no GPU."""
    device = device or ("cuda" if torch.cuda.is_available() else "none")
    if device == "none":
        return count_all(sizes)
    print(header(device), flush=True)
    found: list[dict[str, Any]] = []
    for figures in time_all(Stopwatch(device, seconds), sizes, compiled):
        print(line(figures), flush=True)
        found.append(figures)
    return found


def main() -> None:
    """Print tables, and write all figures to the file given with --json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--device",
        default="",
        choices=("cuda", "cpu", "none"),
        help="none: count operations instead of measuring times",
    )
    parser.add_argument("--small", action="store_true", help="small networks and pictures")
    parser.add_argument("--eager", action="store_true", help="skip torch.compile")
    parser.add_argument("--json", type=Path, help="JSON file to write all figures to")
    parsed = parser.parse_args()
    sizes = SMALL if parsed.small else Sizes()
    found = measure(sizes, parsed.device, not parsed.eager)
    if parsed.json:
        parsed.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
