"""`make bench`: what a GPU does, counted or timed, and what a CPU takes, beside a straightforward
way to run the same networks; within 20 minutes on two cores.

`python -m tests.bench growth peaks` measures these alone; seams, wrap and memory are measured by
modules of their own.
"""

import argparse
import time

import torch

from . import gpu, odd_sizes, sizes, speed
from .bars import Bar, print_bars
from .ways import Sizes

SECTIONS = ("gpu", "speed", "peaks", "odd", "growth", "sizes")


def run(section: str) -> list[Bar]:
    """Print the tables of a section."""
    if section == "gpu":
        gpu.measure(Sizes())
        return []
    with torch.inference_mode():
        if section == "odd":
            odd_sizes.odd_sizes()
            return []
        return {
            "speed": speed.speed,
            "peaks": speed.peaks,
            "growth": speed.growth,
            "sizes": sizes.sizes,
        }[section]()


def main() -> None:
    """Measure what is asked for, all by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}")
    sections = parser.parse_args().sections or SECTIONS
    if unknown := set(sections) - set(SECTIONS):
        parser.error(f"There is no section {', '.join(unknown)}, only {', '.join(SECTIONS)}.")
    bars: list[Bar] = []
    for section in sections:
        began = time.perf_counter()
        bars += run(section)
        print(f"\n({section}: {time.perf_counter() - began:.0f} s)", flush=True)
    if bars:
        print_bars(bars)


if __name__ == "__main__":
    main()
