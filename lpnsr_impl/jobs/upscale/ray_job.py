"""Runs a job on a Ray cluster.

Ray Data maps a dataset of file names over a pool of actors, each with its own networks. If an actor
dies, another one repeats its batch and skips the pictures that already have a result.
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
"""Value of --ray that starts a new cluster on this machine."""

MAX_TRIES = 3
"""Maximum number of attempts per picture if its worker dies, as the picture may be the cause."""

_MAX_BLOCKS = 10_000

Batch = dict[str, Any]


@ray.remote(num_cpus=0, max_restarts=-1)
class Tries:
    """Counts how many times all workers of the cluster together tried each picture."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def begin(self, name: str) -> int:
        """Count a try of a picture, and return the number of its tries so far."""
        self._counts[name] += 1
        return self._counts[name]

    def all(self) -> dict[str, int]:
        """Number of tries of each picture."""
        return dict(self._counts)


class UpscaleActor:
    """Actor that loads the networks once and upscales batches of pictures."""

    def __init__(self, job: Job, settings: Settings, tries: Any, threads: int | None) -> None:
        if threads:
            torch.set_num_threads(threads)
        self._tries = tries
        self._worker = Worker(job, Networks(settings))

    def __call__(self, batch: Batch) -> Batch:
        """Upscale a batch. Maps columns named like the fields of `Item` ("" if `spare` is None) to
        columns named like the fields of `Outcome`."""
        columns = (batch[key].tolist() for key in ("name", "result", "spare"))
        rows = [
            asdict(self._upscale(Item(name, result, spare or None)))
            for name, result, spare in zip(*columns, strict=True)
        ]
        return {key: np.array([row[key] for row in rows]) for key in rows[0]}

    def _upscale(self, item: Item) -> Outcome:
        tries: int = ray.get(self._tries.begin.remote(item.name))
        if tries > MAX_TRIES:
            reason = f"the worker died {MAX_TRIES} times while it upscaled this picture"
            return Outcome(item.name, FAILED, f"{reason}, possibly for lack of memory")
        return self._worker.upscale(item)


def run_on_ray(
    job: Job, items: Sequence[Item], settings: Settings, address: str, workers: int | None
) -> Iterator[Outcome]:
    """Upscale pictures, and yield their outcomes in any order.

    Args:
        job: the job. All cluster nodes must have access to its folders.
        items: pictures to upscale.
        settings: settings of the networks. All cluster nodes must have access to the model files.
        address: address of a running cluster, such as "auto"; or "local" to start one.
        workers: number of actors; None for one per GPU or, without GPUs, one per CPU core.

    Raises:
        ConnectionError: there is no cluster at the address.
        ValueError: the cluster is too small for this number of workers.
        RuntimeError: workers can't start, for instance because a model file is missing.
    """
    connects = not ray.is_initialized()
    if connects and address == LOCAL:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
        ray.init(address, include_dashboard=False, logging_level=logging.WARNING)
    elif connects:
        ray.init(address, logging_level=logging.WARNING)
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        num_workers, on_gpus = _plan_workers(workers, settings.device)
        rows = [{"name": i.name, "result": i.result, "spare": i.spare or ""} for i in items]
        dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MAX_BLOCKS))
        outcomes = dataset.map_batches(
            UpscaleActor,
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=min(num_workers, len(items))),
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
        if connects:
            ray.shutdown()


def _plan_workers(workers: int | None, device: str) -> tuple[int, bool]:
    """Choose the number of workers, and whether each gets a GPU.

    A worker takes a CPU core and, if the cluster has GPUs, a GPU of the same machine.

    Raises:
        ValueError: the cluster is too small for this number of workers.
    """
    nodes: list[dict[str, float]] = [n["Resources"] for n in ray.nodes() if n["Alive"]]
    on_gpus = device != "cpu" and any(node.get("GPU", 0) >= 1 for node in nodes)
    kinds = ("CPU", "GPU") if on_gpus else ("CPU",)
    max_workers = sum(int(min(node.get(kind, 0) for kind in kinds)) for node in nodes)
    num_workers = max_workers if workers is None else workers
    if 0 < num_workers <= max_workers:
        return num_workers, on_gpus
    has = " and ".join(f"{sum(n.get(kind, 0) for n in nodes):.0f} {kind}s" for kind in kinds)
    advice = f"Give 1 to {max_workers}, or leave --ray-workers out."
    raise ValueError(
        f"--ray-workers is {num_workers}, but the cluster has room for {max_workers}: it has {has},"
        f" and each worker takes one{' of both, on the same machine' if on_gpus else ''}. "
        + (advice if max_workers else "Use a larger cluster.")
    )
