"""Measure the memory for activations of each network, in units of one layer of its first level. The
engine's memory estimates use the results.

Each case runs in its own process and measures the peak resident memory of a run, minus that of the
loaded network.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

import torch

from lpnsr_impl import load_autoencoder, load_denoiser
from lpnsr_impl.accelerate import accelerate
from tests.golden.fill import fill

ROOT = Path(__file__).parents[2]
CASES = [
    (part, family, size)
    for part in ("encode", "decode", "denoise")
    for family in ("lite", "full")
    for size in (128, 192)
]


def peak_bytes() -> int:
    """Return the peak resident memory of this process."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def load(part: str, family: str) -> torch.nn.Module:
    """Load a network for the CPU: lite, or of the released size with weights from a formula."""
    network = _read(part, family)
    accelerate(network, torch.device("cpu"))
    return network


def _read(part: str, family: str) -> torch.nn.Module:
    loader = load_denoiser if part == "denoise" else load_autoencoder
    name = "denoiser" if part == "denoise" else "autoencoder"
    if family == "lite":
        return loader(ROOT / "lpnsr_impl" / "weights" / f"lpnsr_lite_{name}.safetensors")
    keys = json.loads((ROOT / "tests" / "golden" / "checkpoint_keys.json").read_text())
    return loader(fill(keys["resshift_denoiser" if part == "denoise" else "autoencoder_vq_f4"]))


def run(network: torch.nn.Module, part: str, size: int) -> int:
    """Run on a latent of `size` x `size`. Return the number of values in a layer of the first
    level."""
    if part == "denoise":
        x = torch.zeros(1, 3, size, size)
        network(x, 0, x)
        return network.config.model_channels * size**2
    if part == "encode":
        network.encode(torch.zeros(1, 3, 4 * size, 4 * size))
    else:
        network.decode(torch.zeros(1, 3, size, size))
    return network.config.level_channels[0] * (4 * size) ** 2


@torch.inference_mode()
def measure(part: str, family: str, size: int) -> float:
    """Measure the memory of a run, in layers of the first level."""
    network = load(part, family)
    network_bytes = sum(p.numel() * p.element_size() for p in network.parameters())
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    values = run(network, part, size)
    return (peak_bytes() - max(before, network_bytes)) / (4 * values)


def main() -> None:
    """Measure all cases, or the one given on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", nargs="*", help="part, family and latent size of one case")
    case = parser.parse_args().case
    if case:
        print(measure(case[0], case[1], int(case[2])))
        return
    for part, family, size in CASES:
        command = [sys.executable, "-m", "tests.bench.memory", part, family, str(size)]
        layers = float(
            subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
        )
        print(f"{part:8} {family:5} latent {size}x{size}: {layers:6.1f} layers", flush=True)


if __name__ == "__main__":
    main()
