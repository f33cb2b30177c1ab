"""`make bench`: time and memory on CPU and GPU, compared with a straightforward implementation of
the same networks. Takes 20 minutes on two cores.

`python -m tests.bench growth peaks` runs only the sections growth and peaks. Some modules of this
package are separate benchmarks, e.g. `python -m tests.bench.seams`.
"""

import argparse
import time

import torch

from . import gpu, odd_sizes, sizes, speed
from .bars import Bar, print_bars
from .ways import Sizes

SECTIONS = ("gpu", "speed", "peaks", "odd", "growth", "sizes")


def run(section: str) -> list[Bar]:
    """Run a section, and print its tables."""
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
    """Run the sections given on the command line, or all sections if none is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", help=f"some of {', '.join(SECTIONS)}; default: all")
    sections = parser.parse_args().sections or SECTIONS
    if unknown := set(sections) - set(SECTIONS):
        parser.error(f"unknown section {', '.join(unknown)}, choose from {', '.join(SECTIONS)}")
    bars: list[Bar] = []
    for section in sections:
        began = time.perf_counter()
        bars += run(section)
        print(f"\n({section}: {time.perf_counter() - began:.0f} s)", flush=True)
    if bars:
        print_bars(bars)


if __name__ == "__main__":
    main()
