"""Activation memory of one network call: the engine's estimate compared with a measurement.

On the CPU, the measurement is the peak resident memory of a process while it runs one network,
minus the memory before. On a GPU it is the peak of PyTorch's allocator. Without a GPU, the size
of live FakeTensors is counted instead; this excludes the workspace of kernels.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from itertools import product
from typing import Any

import torch

from lpnsr_impl.engine.memory import activation_bytes

from .counting import FAKE, counted
from .speed import ROOT, load, measure_peak, resident_bytes
from .ways import Ours, Sizes, calls, make_networks

PARTS = ("encode", "decode", "denoiser", "predictor")
FAMILIES = ("lite", "full")
SIDES = (128, 256)
GPU_DTYPES = (torch.float32, torch.float16)


def estimate_of(ours: Ours, part: str, side: int, device: str) -> float:
    """Return the engine's memory estimate for a stage in bytes. `part` is one of `PARTS`."""
    unets = {"denoiser": ours.denoiser, "predictor": ours.noise_predictor}
    network = unets.get(part, ours.autoencoder)
    return activation_bytes(network, side, side, torch.device(device), encoding=part == "encode")


@torch.inference_mode()
def print_gpu_rows(family: str, dtype: torch.dtype) -> None:
    """Print a row for each part and size: measured on a GPU, or counted without one."""
    where = nullcontext() if torch.cuda.is_available() else FAKE
    lite = load("lite") if family == "lite" else None
    sizes = Sizes(lite[0].config, lite[1].config) if lite else Sizes()
    with where:
        ours = Ours(*make_networks(dtype, "cuda", sizes))
    for part, side in product(PARTS, SIDES):
        with where:
            run = calls(ours, side, 1, "cuda")[part]
        measure_gpu_peak(run)  # warm-up: the first run also creates cached tensors
        peak = measure_gpu_peak(run)
        estimate = estimate_of(ours, part, side, "cuda")
        print_row(f"GPU, {str(dtype).removeprefix('torch.')}", family, part, side, estimate, peak)


def measure_gpu_peak(run: Callable[[], Any]) -> int:
    """Return the peak GPU memory of a run minus the memory allocated before, in bytes."""
    if not torch.cuda.is_available():
        return counted(lambda _: run()).peak
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return torch.cuda.max_memory_allocated() - before


@torch.inference_mode()
def measure_cpu(family: str, part: str, side: int) -> None:
    """Print the estimated and the measured peak memory of one run in this process, in bytes."""
    ours = Ours(*load(family))
    run = calls(ours, side, 1, "cpu")[part]
    before = resident_bytes()
    estimate = estimate_of(ours, part, side, "cpu")
    print(estimate, measure_peak(run) - before)


def print_row(
    device: str, family: str, part: str, side: int, estimate: float, measured: float
) -> None:
    """Print an estimate and a measurement as a row of the table."""
    megabytes = f"{estimate / 1e6:.0f} MB | {measured / 1e6:.0f} MB"
    row = f"{device} | {family} | {part} | {side}² | {megabytes} | {estimate / measured:.2f}"
    print(f"| {row} |", flush=True)


def print_gpu_table() -> None:
    """Print the header of the table, and its rows for GPUs."""
    print("| device | models | part | LR | estimate | measured | ratio |\n" + "|---" * 7 + "|")
    for family, dtype in product(FAMILIES, GPU_DTYPES):
        print_gpu_rows(family, dtype)


def main() -> None:
    """Print a table of all cases, or only measure the case given on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", nargs="*", help="a case on the CPU: family, part and side")
    if case := parser.parse_args().case:
        measure_cpu(case[0], case[1], int(case[2]))
        return
    print_gpu_table()
    for family, part, side in product(FAMILIES, PARTS, SIDES):
        command = [sys.executable, "-m", "tests.bench.memory", family, part, str(side)]
        output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
        print_row("CPU, float32", family, part, side, *map(float, output.stdout.split()))


if __name__ == "__main__":
    main()
