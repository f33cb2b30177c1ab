"""Time every network, a large picture and a clip on a GPU, and compare with the baseline. Takes at
most about 8 minutes and 20 GB. Used by `tests.bench.gpu`."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lpnsr_impl.config import SCALE
from lpnsr_impl.engine.memory import USABLE, is_out_of_memory
from lpnsr_impl.engine.tile_plan import TilePlan, plan_axis

from .baseline import Baseline
from .ways import LIMIT_BYTES, Card, Ours, Sizes, calls, make_networks

LIMIT_SECONDS = 480.0
TO_COMPILE = 120.0
"""Minimum remaining time, in seconds, to start compiling another network."""
MAX_BATCH = 16


@dataclass(frozen=True)
class Measured:
    """Result of a measurement.

    Attributes:
        seconds: duration of a run, or None if it ran out of memory.
        peak: peak memory minus the memory before the run, in bytes; None on a CPU.
    """

    seconds: float | None
    peak: int | None = None


class Stopwatch:
    """Measures runs on a device, within a time budget.

    Args:
        device: "cuda" or "cpu". On a GPU, at most `LIMIT_BYTES` are used.
        seconds: time budget for all measurements.
    """

    def __init__(self, device: str, seconds: float = LIMIT_SECONDS) -> None:
        self.device = device
        self._cuda = device == "cuda"
        self._end = time.perf_counter() + seconds
        if self._cuda:
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, LIMIT_BYTES / total))

    @property
    def left(self) -> float:
        """Seconds left of the time budget; negative if it is exceeded."""
        return self._end - time.perf_counter()

    def measure(self, run: Callable[[], Any]) -> Measured:
        """Measure peak memory and median time of three runs (fewer if slow) after a warm-up."""
        try:
            first = self._seconds(run)
            before = self._reset_peak()
            seconds = [self._seconds(run)]
            while len(seconds) < 3 and sum(seconds) + first < 10:
                seconds.append(self._seconds(run))
        except RuntimeError as e:
            if not is_out_of_memory(e):
                raise
        else:
            peak = torch.cuda.max_memory_allocated() - before if self._cuda else None
            return Measured(sorted(seconds)[len(seconds) // 2], peak)
        if self._cuda:  # after `except`, so the traceback does not keep tensors alive
            torch.cuda.empty_cache()
        return Measured(None)

    def _seconds(self, run: Callable[[], Any]) -> float:
        began = time.perf_counter()
        run()
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - began

    def _reset_peak(self) -> int:
        if not self._cuda:
            return 0
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()


Runs = dict[str, Callable[[], Any]]


@torch.inference_mode()
def time_all(
    stopwatch: Stopwatch,
    sizes: Sizes,
    compiled: bool,
    dtypes: Sequence[torch.dtype] = (torch.float16, torch.bfloat16),
) -> Iterator[dict[str, Any]]:
    """Yield measurements of all networks and pictures, the most important ones first, until the
    time budget is used up.

    Args:
        stopwatch: measures the runs on its device.
        sizes: sizes of networks and pictures.
        compiled: also measure compiled networks, last.
        dtypes: dtypes of weights and activations.
    """
    device = stopwatch.device
    for dtype in dtypes:
        networks = make_networks(dtype, device, sizes)
        ours, baseline = Ours(*networks, Card()), Baseline(*networks)
        for side in sizes.tiles:
            single = both(stopwatch, calls(ours, side, 1, device), calls(baseline, side, 1, device))
            for what, measured in single:
                yield figures(dtype, "eager", what, side, 1, *measured)
                batch = fitting(measured[0])
                if batch > 1:
                    mine, theirs = (calls(who, side, batch, device) for who in (ours, baseline))
                    for _, of_batch in both(stopwatch, {what: mine[what]}, theirs):
                        yield figures(dtype, "eager", what, side, batch, *of_batch)
        yield from _pictures(stopwatch, dtype, ours, baseline, sizes)
    for dtype in dtypes if compiled else ():
        yield from _compiled(stopwatch, dtype, sizes)


def _pictures(
    stopwatch: Stopwatch, dtype: torch.dtype, ours: Ours, baseline: Baseline, sizes: Sizes
) -> Iterator[dict[str, Any]]:
    """Measure a large picture and a clip. The baseline upscales the picture tile by tile, and the
    clip frame by frame."""
    tile = sizes.tiles[0]
    picture, frame = (
        torch.zeros(1, 3, side, side, device=stopwatch.device)
        for side in (sizes.picture, sizes.frame)
    )
    clip = frame.expand(sizes.frames, -1, -1, -1)
    axis = plan_axis(sizes.picture, tile, tile // 8, min_tile=tile)
    plan = TilePlan(axis, axis)

    def upscale(lr: Tensor) -> Tensor:
        return baseline.upscale(lr, 1)[0]

    mine: Runs = {
        "picture": lambda: ours.upscale(picture, 1),
        "clip": lambda: ours.upscale(clip, 1),
    }
    theirs: Runs = {
        "picture": lambda: plan.apply(upscale, [picture], output_scale=SCALE).cpu(),
        "clip": lambda: [upscale(frame).cpu() for frame in clip.split(1)],
    }
    for what, measured in both(stopwatch, mine, theirs):
        side, batch = (sizes.picture, 1) if what == "picture" else (sizes.frame, sizes.frames)
        yield figures(dtype, "eager", what, side, batch, *measured)


def _compiled(stopwatch: Stopwatch, dtype: torch.dtype, sizes: Sizes) -> Iterator[dict[str, Any]]:
    """Measure calls of compiled networks, and of uncompiled ones as their baseline."""
    device, side = stopwatch.device, sizes.tiles[0]
    eager, networks = (make_networks(dtype, device, sizes, compiled) for compiled in (False, True))
    mine, theirs = (calls(Ours(*some), side, 1, device) for some in (networks, eager))
    for what, run in mine.items():
        if stopwatch.left > TO_COMPILE:
            for _, measured in both(stopwatch, {what: run}, theirs):
                yield figures(dtype, "compiled against eager", what, side, 1, *measured)


def both(
    stopwatch: Stopwatch, ours: Runs, baseline: Runs
) -> Iterator[tuple[str, tuple[Measured, Measured]]]:
    """Measure each run and the baseline's run of the same name, until time runs out."""
    for what, run in ours.items():
        if stopwatch.left > 0:
            yield what, (stopwatch.measure(run), stopwatch.measure(baseline[what]))


def fitting(single: Measured) -> int:
    """Return the number of tiles that fit into a batch, given the measurement of a single tile."""
    if not single.peak:
        return 2
    return max(1, min(MAX_BATCH, int(USABLE * LIMIT_BYTES // single.peak)))


def figures(
    dtype: torch.dtype,
    how: str,
    what: str,
    side: int,
    batch: int,
    ours: Measured,
    baseline: Measured,
) -> dict[str, Any]:
    """Make a row of results. `how` is "eager" or "compiled against eager", `what` the part that was
    run."""
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "how": how,
        "what": what,
        "side": side,
        "batch": batch,
        "seconds": ours.seconds,
        "peak": ours.peak,
        "baseline_seconds": baseline.seconds,
        "baseline_peak": baseline.peak,
        "ratio": baseline.seconds / ours.seconds if ours.seconds and baseline.seconds else None,
    }


def header(device: str) -> str:
    """Make the header of the table whose rows `line` formats."""
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    columns = "| dtype | how | what | LR | batch | time | baseline | ratio | peak | baseline |"
    return f"\n## {name}, timed\n\n{columns}\n" + "|---" * 10 + "|"


def line(figures: dict[str, Any]) -> str:
    """Format a row of results as a line of a Markdown table."""
    times, peaks = (
        [figures[f"{who}{key}"] for who in ("", "baseline_")] for key in ("seconds", "peak")
    )
    cells = [
        *(str(figures[key]) for key in ("dtype", "how", "what")),
        f"{figures['side']}²",
        str(figures["batch"]),
        *("out of memory" if t is None else f"{1e3 * t:.1f} ms" for t in times),
        "" if figures["ratio"] is None else f"{figures['ratio']:.2f}",
        *("" if peak is None else f"{peak / 1e9:.2f} GB" for peak in peaks),
    ]
    return f"| {' | '.join(cells)} |"
