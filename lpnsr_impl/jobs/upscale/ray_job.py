"""Runs a job on a Ray cluster.

Ray Data maps a dataset of file names over a pool of actors, each with its own networks. If an actor
dies, another one repeats its batch, and skips the pictures that have their result.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import ray
import ray.data
import ray.exceptions
import torch

from .job import FAILED, Outcome, Worker
from .networks import Networks, Settings
from .plan import Item
from .results import Job

LOCAL = "local"
"""Address for a new cluster on this machine."""

MAX_TRIES = 3
"""Tries for a picture whose worker dies; it may be the cause, for instance by its size."""

_MAX_BLOCKS = 10_000

Batch = dict[str, Any]


@ray.remote(num_cpus=0, max_restarts=-1)
class Tries:
    """Counts how often each picture was started, on the whole cluster."""

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()

    def begin(self, name: str) -> int:
        """Count a start. Returns the number of starts so far."""
        self._begun[name] += 1
        return self._begun[name]

    def all(self) -> dict[str, int]:
        """Number of starts of every picture."""
        return dict(self._begun)


class UpscaleActor:
    """Loads the networks once, and upscales batches of pictures."""

    def __init__(self, job: Job, settings: Settings, tries: Any, threads: int | None) -> None:
        if threads:
            torch.set_num_threads(threads)
        self._tries = tries
        self._worker = Worker(job, Networks(settings))

    def __call__(self, batch: Batch) -> Batch:
        """Map columns name, result and spare ("" for none) to columns of outcomes."""
        columns = (batch[key].tolist() for key in ("name", "result", "spare"))
        rows = [
            asdict(self._do(Item(name, result, spare or None)))
            for name, result, spare in zip(*columns, strict=True)
        ]
        return {key: np.array([row[key] for row in rows]) for key in rows[0]}

    def _do(self, item: Item) -> Outcome:
        tries: int = ray.get(self._tries.begin.remote(item.name))
        if tries > MAX_TRIES:
            reason = f"the worker died {MAX_TRIES} times while this picture was upscaled"
            return Outcome(item.name, FAILED, f"{reason}, maybe for lack of memory")
        return self._worker.do(item)


def do_on_ray(
    job: Job, items: Sequence[Item], settings: Settings, address: str, workers: int | None
) -> Iterator[Outcome]:
    """Upscale pictures, and yield their outcomes in any order.

    Args:
        job: every node must reach its folders.
        items: pictures.
        settings: of the networks; every node must reach the model files.
        address: of a running cluster, e.g. "auto", or "local".
        workers: number of actors; None for one per GPU or, without GPUs, one per CPU core.

    Raises:
        ConnectionError: there is no cluster at the address.
        ValueError: the cluster has no room for so many workers.
        RuntimeError: workers can't start, for instance because a model's file is missing.
    """
    began = not ray.is_initialized()
    if began and address == LOCAL:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
        ray.init(address, include_dashboard=False, logging_level=logging.WARNING)
    elif began:
        ray.init(address, logging_level=logging.WARNING)
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        room, on_gpus = _room(workers, settings.device)
        rows = [{"name": i.name, "result": i.result, "spare": i.spare or ""} for i in items]
        dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MAX_BLOCKS))
        outcomes = dataset.map_batches(
            UpscaleActor,
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=min(room, len(items))),
            num_cpus=1,
            num_gpus=1 if on_gpus else None,
            fn_constructor_args=(job, settings, Tries.remote(), None if on_gpus else 1),
        )
        for row in outcomes.iter_rows():
            yield Outcome(**row)
    except ray.exceptions.RayError as e:
        reason = str(e).strip().splitlines()[-1]
        raise RuntimeError(f"The job on Ray failed: {reason}") from e
    finally:
        if began:
            ray.shutdown()


def _room(workers: int | None, device: str) -> tuple[int, bool]:
    """Number of workers to start, and whether each gets a GPU.

    Each takes a CPU core and, where there are GPUs, a GPU of the same machine.

    Raises:
        ValueError: the cluster has no room for so many.
    """
    nodes: list[dict[str, float]] = [n["Resources"] for n in ray.nodes() if n["Alive"]]
    on_gpus = device != "cpu" and any(node.get("GPU", 0) >= 1 for node in nodes)
    kinds = ("CPU", "GPU") if on_gpus else ("CPU",)
    most = sum(int(min(node.get(kind, 0) for kind in kinds)) for node in nodes)
    wanted = most if workers is None else workers
    if 0 < wanted <= most:
        return wanted, on_gpus
    has = " and ".join(f"{sum(n.get(kind, 0) for n in nodes):.0f} {kind}s" for kind in kinds)
    raise ValueError(
        f"--ray-workers is {wanted}, and the cluster has room for {most}: it has {has}, and each "
        f"worker takes one{' of both, on one machine' if on_gpus else ''}. Give "
        + (f"1 to {most}, or leave --ray-workers out." if most else "a cluster with more.")
    )
