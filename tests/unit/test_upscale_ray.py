"""The upscale command on a real Ray cluster of two workers, one of which is killed."""

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
from PIL import Image

from lpnsr_impl.cli import parser
from lpnsr_impl.jobs.upscale import ray_job
from lpnsr_impl.jobs.upscale.command import make_settings
from lpnsr_impl.jobs.upscale.formats import RECORDS
from lpnsr_impl.jobs.upscale.job import DONE, FAILED, MADE
from lpnsr_impl.jobs.upscale.plan import make_plan
from lpnsr_impl.jobs.upscale.results import Job
from tests.eventually import PATIENCE, eventually
from tests.limits import limit_time

pytestmark = pytest.mark.slow

PACK = Path(__file__).parents[2]
PICTURES = 16
BEFORE_KILL = 6
SETTINGS = make_settings(
    parser().parse_args(["upscale", "x", "y", "--steps", "1", "--preset", "A", "--device", "cpu"])
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "in"
    source.mkdir()
    with Image.open(PACK / "workflows" / "lpnsr_example.png") as file:
        for i in range(PICTURES):
            file.convert("RGB").crop((i, i, i + 16, i + 16)).save(source / f"{i:02}.png")
    return source


def actors() -> list[psutil.Process]:
    """Return the processes of this test's Ray workers.

    Only descendants of this process are considered, since another cluster may run on this machine.
    """
    found: list[psutil.Process] = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if " ".join(process.cmdline()).startswith("ray::MapWorker"):
                found.append(process)
    return found


class Killer(threading.Thread):
    """Kills a worker when `BEFORE_KILL` pictures are done and both workers have begun another."""

    def __init__(self, out: Path, tries: Any, gate: Any) -> None:
        super().__init__()
        self._out = out
        self._tries = tries
        self._gate = gate
        self.done: dict[str, int] = {}  # modification times of the results before the kill

    def run(self) -> None:
        eventually(self._begun, BEFORE_KILL + 2)
        self.done = {p.name: p.stat().st_mtime_ns for p in self._out.glob("*.png")}
        os.kill(actors()[0].pid, signal.SIGKILL)
        ray.get(self._gate.open.remote())

    def _begun(self) -> int:
        return sum(ray.get(self._tries.all.remote()).values())


@ray.remote(num_cpus=0)
class Gate:
    """Counts the tries of each picture as `Tries` does, and makes workers wait: the first
    `BEFORE_KILL` pictures begin at once, the others after `Gate.open` was called."""

    def __init__(self, tries: Any) -> None:
        self._tries = tries
        self._begun = 0
        self._open = asyncio.Event()

    async def begin(self, name: str) -> int:
        self._begun += 1
        count = self._begun
        tries = await self._tries.begin.remote(name)
        if count > BEFORE_KILL:
            await self._open.wait()
        return tries

    async def open(self) -> None:
        self._open.set()


@pytest.fixture
def tries(cluster: None) -> Any:
    """The Ray actor that counts how many times each picture is tried."""
    return ray_job.Tries.remote()


def test_a_killed_worker_loses_no_picture_and_repeats_none_that_was_done(
    tries: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    plan = make_plan(folder.as_uri(), out.as_uri(), "same")
    gate = Gate.remote(tries)
    monkeypatch.setattr(ray_job.Tries, "remote", lambda: gate)
    killer = Killer(out, tries, gate)
    killer.start()
    job = Job(plan.source, plan.out, "settings")
    outcomes = list(ray_job.run_on_ray(job, plan.items, SETTINGS, "local", 2))
    killer.join()

    expected = {f"{i:02}.png" for i in range(PICTURES)}
    assert sorted(outcome.name for outcome in outcomes) == sorted(expected)
    assert {outcome.status for outcome in outcomes} <= {MADE, DONE}
    assert {path.name for path in out.iterdir()} == expected | {RECORDS}
    assert len(list((out / RECORDS).iterdir())) == PICTURES
    for path in out.glob("*.png"):
        with Image.open(path) as file:
            assert file.size == (64, 64)

    assert len(killer.done) == BEFORE_KILL
    assert {name: (out / name).stat().st_mtime_ns for name in killer.done} == killer.done
    begun: dict[str, int] = ray.get(tries.all.remote())
    assert set(begun) == expected
    assert sum(begun.values()) == PICTURES + 1, (
        "expected one repeated try, of the killed worker's picture"
    )


def test_a_picture_that_kills_its_workers_is_given_up(
    tries: Any, folder: Path, tmp_path: Path
) -> None:
    for _ in range(ray_job.MAX_TRIES):
        ray.get(tries.begin.remote("00.png"))
    plan = make_plan(str(folder), str(tmp_path / "out"), "same")
    job = Job(plan.source, plan.out, "settings")
    upscaler = ray_job.UpscaleActor(job, SETTINGS, tries, None)
    names = np.array([item.result for item in plan.items[:2]])
    outcomes = upscaler({"name": names, "result": names, "spare": np.array(["", ""])})
    assert outcomes["status"].tolist() == [FAILED, MADE]
    assert "died 3 times" in outcomes["text"][0]


def test_workers_that_cannot_start_are_an_error(
    cluster: None, folder: Path, tmp_path: Path
) -> None:
    plan = make_plan(str(folder), str(tmp_path / "out"), "same")
    job = Job(plan.source, plan.out, "settings")
    lost = replace(SETTINGS, denoiser="/nowhere.safetensors")
    with pytest.raises(RuntimeError, match=r"no file '/nowhere\.safetensors'"):
        list(ray_job.run_on_ray(job, plan.items, lost, "local", 1))


@pytest.mark.parametrize("workers", [3, 0])
def test_more_workers_than_the_cluster_has_room_for_are_refused(
    cluster: None, folder: Path, tmp_path: Path, workers: int
) -> None:
    plan = make_plan(str(folder), str(tmp_path / "out"), "same")
    job = Job(plan.source, plan.out, "settings")
    message = rf"--ray-workers is {workers}, but .* room for 2: it has 2 CPUs.* Give 1 to 2"
    with limit_time(PATIENCE), pytest.raises(ValueError, match=message):
        list(ray_job.run_on_ray(job, plan.items, SETTINGS, "local", workers))


@pytest.mark.parametrize(
    ("nodes", "device", "expected"),
    [
        ([{"CPU": 4.0}, {"CPU": 2.0}], "", (6, False)),
        ([{"CPU": 4.0, "GPU": 8.0}, {"CPU": 9.0, "GPU": 1.0}, {"CPU": 7.0}], "", (5, True)),
        ([{"CPU": 4.0, "GPU": 8.0}, {"CPU": 2.0}], "cpu", (6, False)),
    ],
)
def test_each_worker_has_a_core_and_a_gpu_where_there_are_any(
    monkeypatch: pytest.MonkeyPatch,
    nodes: list[dict[str, float]],
    device: str,
    expected: tuple[int, bool],
) -> None:
    dead: dict[str, Any] = {"Alive": False, "Resources": {}}
    alive = [{"Alive": True, "Resources": node} for node in nodes]
    monkeypatch.setattr(ray, "nodes", lambda: [dead, *alive])
    assert ray_job._plan_workers(None, device) == expected


@pytest.mark.parametrize("resources", [{}, {"GPU": 2.0}])
def test_a_cluster_without_cores_is_told(
    monkeypatch: pytest.MonkeyPatch, resources: dict[str, float]
) -> None:
    node = {"Alive": True, "Resources": {"memory": 1e9, **resources}}
    monkeypatch.setattr(ray, "nodes", lambda: [node])
    with pytest.raises(ValueError, match=r"room for 0: it has 0 CPUs.* Use a larger cluster"):
        ray_job._plan_workers(None, "")
