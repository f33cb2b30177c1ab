"""Time and memory on a CPU, compared with the baseline.

The full-size networks have pseudo-random weights. Implementations are timed alternately in one
process. Peak memory is measured in a separate process for each implementation.
"""

import argparse
import ctypes
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from lpnsr_impl import load_autoencoder, load_denoiser, load_noise_predictor
from lpnsr_impl.accelerate import accelerate, set_precision
from lpnsr_impl.files.folders import find_weights
from lpnsr_impl.pictures.images import to_pm1
from lpnsr_impl.pictures.reading import read_picture
from tests.golden.fill import fill

from .bars import Bar
from .baseline import Baseline
from .ways import Networks, Ours

ROOT = Path(__file__).parents[2]
SIZES = [(64, 64, 3), (128, 128, 1)]  # LR height and width, number of runs
ODD = (97, 130)
PHOTO = ROOT / "workflows" / "lpnsr_example.png"
DTYPES = (torch.float32, torch.bfloat16)
SEED = 0
BEFORE = {64: 1.25, 128: 1.6}
"""Minimum speed-up over the baseline in fp32, by side of the LR picture in pixels. An earlier
version, with the optimisations inside the networks' code, reached it."""

Seconds = dict[str, float]
"""Duration of each stage in seconds; "whole" is their sum."""


class Way(Protocol):
    """An implementation of x4 upscaling. It calls `stage` with the name of each finished stage."""

    def upscale(
        self, lr: Tensor, seed: int, stage: Callable[[str], None]
    ) -> tuple[Tensor, Tensor]: ...


def load(family: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Networks:
    """Load networks as the nodes do: the lite models if `family` is "lite", otherwise full-size
    networks with pseudo-random weights."""
    networks = _read(family)
    for network in networks:
        set_precision(network.to(device), dtype, dtype)
        accelerate(network, torch.device(device))
    return networks


def _read(family: str) -> Networks:
    if family == "lite":
        lite = "lpnsr_lite_{}.safetensors"
        return (
            load_autoencoder(find_weights(lite.format("autoencoder"))),
            load_denoiser(find_weights(lite.format("denoiser"))),
            load_noise_predictor(find_weights(lite.format("noise_predictor"))),
        )
    keys = json.loads((ROOT / "tests" / "golden" / "checkpoint_keys.json").read_text())
    return (
        load_autoencoder(fill(keys["autoencoder_vq_f4"])),
        load_denoiser(fill(keys["resshift_denoiser"])),
        load_noise_predictor(fill(keys["noise_predictor"])),
    )


def picture(h: int, w: int) -> Tensor:
    """Make a smooth random picture, [1,3,h,w] in [-1,1]."""
    coarse = torch.rand(1, 3, -(-h // 8), -(-w // 8), generator=torch.Generator().manual_seed(1))
    return 2 * torch.nn.functional.interpolate(coarse, size=(h, w), mode="bilinear") - 1


def timed(way: Way, lr: Tensor) -> tuple[Tensor, Seconds]:
    """Upscale a picture. Return the result and the duration of each stage."""
    seconds: Seconds = {}
    last = time.perf_counter()

    def stage(name: str) -> None:
        nonlocal last
        now = time.perf_counter()
        seconds[name], last = now - last, now

    sr, _ = way.upscale(lr, SEED, stage)
    return sr, seconds | {"whole": sum(seconds.values())}


def psnr(a: Tensor, b: Tensor) -> float:
    """Return the PSNR of two pictures in [0,1], in dB."""
    return -10 * math.log10(max(float((a - b).square().mean()), 1e-20))


def speed() -> list[Bar]:
    """Compare the full-size networks in fp32 and bf16 with the baseline in fp32."""
    networks = load("full")
    ways: dict[str, Way] = {
        "baseline": Baseline(*networks),
        "fp32": Ours(*networks),
        "bf16": Ours(*load("full", torch.bfloat16)),
    }
    print(f"\n## Full size, PreSet-A, 4 steps, {torch.get_num_threads()} threads\n")
    print("| LR | stage | baseline | fp32 | ratio | bf16 | ratio to fp32 | to baseline |")
    print("|---" * 8 + "|")
    for way in ways.values():
        timed(way, picture(64, 64))  # warm-up, since the first run is slower
    bars: list[Bar] = []
    for h, w, runs in SIZES:
        lr = picture(h, w)
        turns = [{name: timed(way, lr) for name, way in ways.items()} for _ in range(runs)]
        for stage in ("encode", "4 steps", "decode", "whole"):
            base, fp32, bf16 = (
                statistics.median(turn[name][1][stage] for turn in turns) for name in ways
            )
            times = f"{base:.2f} s | {fp32:.2f} s | {base / fp32:.2f} | {bf16:.2f} s"
            ratios = f"{fp32 / bf16:.2f} | {base / bf16:.2f}"
            print(f"| {w}x{h} | {stage} | {times} | {ratios} |", flush=True)
        size = f"{w}x{h}"  # base, fp32 and bf16 are now the times of "whole", the last stage
        bars.append(Bar(f"{size}: fp32 against the baseline", base / fp32, BEFORE[h], least=True))
        to_fp32 = psnr(turns[-1]["bf16"][0], turns[-1]["fp32"][0])
        name = f"{size}: PSNR of bf16 to fp32, weights by formula, dB"
        bars.append(Bar(name, to_fp32, 35, least=True))
    bars.append(Bar(f"{size}: bf16 against fp32", fp32 / bf16, 1.7, least=True))
    bars.append(Bar(f"{size}: bf16 against the baseline", base / bf16, 3, least=True))
    lr = to_pm1(read_picture(PHOTO)[None])
    fp32, bf16 = (timed(Ours(*load("lite", dtype)), lr)[0] for dtype in DTYPES)
    bars.append(
        Bar("a photo, bundled models: PSNR of bf16 to fp32, dB", psnr(fp32, bf16), 35, True)
    )
    return bars


def growth() -> list[Bar]:
    """Measure how the time with the lite models grows with the size of the picture."""
    way = Ours(*load("lite"))
    timed(way, picture(64, 64))  # warm-up, since the first run is slower
    least, small, large = (timed(way, picture(side, side))[1]["whole"] for side in (128, 256, 1024))
    exponent = math.log(large / small) / math.log(16)
    print(f"\n## Lite, 4 steps\n\n128x128 {least:.1f} s, 256x256 {small:.1f} s, 1024x1024", end=" ")
    print(f"{large:.1f} s: {large / small / 16:.2f} times 256x256's per pixel", flush=True)
    return [Bar("growth of time from 256² to 1024², exponent of pixels", exponent, 1.10)]


def peaks() -> list[Bar]:
    """Compare peak memory and time with the baseline that imitates the published code. The size of
    the picture is not a multiple of 64."""
    h, w = ODD
    print("\n## Full size, fp32, one process each\n\n| LR | way | peak | time |\n|---|---|---|---|")
    found: dict[str, float] = {}
    for who in ("ours", "published"):
        command = [sys.executable, "-m", "tests.bench.speed", who, str(h), str(w)]
        output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
        found[who], seconds = map(float, output.stdout.split())
        print(f"| {w}x{h} | {who} | {found[who]:.0f} MB | {seconds:.1f} s |", flush=True)
    share = found["ours"] / found["published"]
    return [Bar(f"{w}x{h}: peak relative to the published code", share, 0.2)]


def resident_bytes() -> int:
    """Return the resident memory of this process in bytes."""
    ctypes.CDLL(None).malloc_trim(0)  # return freed memory to the system
    return read_status("VmRSS")


def measure_peak(run: Callable[[], Any]) -> int:
    """Return the peak resident memory of this process during a run, in bytes."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    run()
    return read_status("VmHWM")


def read_status(key: str) -> int:
    """Return a field of /proc/self/status in bytes, e.g. "VmRSS"."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


@torch.inference_mode()
def run_once(who: str, h: int, w: int) -> None:
    """Upscale a picture once. Print the peak memory in MB, including weights, and the time in
    seconds."""
    networks = load("full")
    way: Way = Ours(*networks) if who == "ours" else Baseline(*networks, published=True)
    del networks
    began = time.perf_counter()
    peak = measure_peak(lambda: way.upscale(picture(h, w), SEED))
    print(f"{peak / 2**20:.0f} {time.perf_counter() - began:.1f}")


def main() -> None:
    """Measure peak memory and time of one implementation."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("who", choices=("ours", "published"))
    parser.add_argument("height", type=int)
    parser.add_argument("width", type=int)
    parsed = parser.parse_args()
    run_once(parsed.who, parsed.height, parsed.width)


if __name__ == "__main__":
    main()
