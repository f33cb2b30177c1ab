"""Result files, also after a job was killed and when two jobs write to the same folder."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lpnsr_impl.jobs.upscale.folders import ArrowFolder, LocalFolder
from lpnsr_impl.jobs.upscale.formats import RECORDS
from lpnsr_impl.jobs.upscale.plan import Item
from lpnsr_impl.jobs.upscale.results import MAX_AGE, Job, Results

ITEM = Item("a.png", "sub/a.png")
OPERATIONS = ("put", "delete", "move")
KINDS = [LocalFolder, ArrowFolder]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"a picture")
    return tmp_path / "out"


def results(out: Path, settings: str, kind: type = LocalFolder) -> Results:
    """Make the `Results` of a new job."""
    places = (out.parent / "in", out)
    source, target = (p.as_uri() if kind is ArrowFolder else str(p) for p in places)
    return Results(Job(source, target, settings))


def commit(job: Results, data: bytes) -> None:
    job.check_replaceable(ITEM.result)
    _, made_from = job.read_input(ITEM)
    job.commit(ITEM.result, data, ITEM, made_from)


def files(out: Path) -> list[Path]:
    return [path for path in out.rglob("*") if path.is_file()]


def before_operation(
    patch: pytest.MonkeyPatch, kind: type, number: int, action: Callable[[], None]
) -> list[str]:
    """Patch a folder class to call `action` before its `number`th operation (put, delete or move).

    Returns:
        A list to which the names of the operations are appended.
    """
    done: list[str] = []

    def wrap(name: str) -> Callable[..., None]:
        real = getattr(kind, name)

        def operation(*arguments: object) -> None:
            done.append(name)
            if len(done) == number:
                action()
            real(*arguments)

        return operation

    for name in OPERATIONS:
        patch.setattr(kind, name, wrap(name))
    return done


class KilledError(BaseException):
    """Simulates a killed process: the cleanup after this exception fails, too."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", range(1, 6))
@pytest.mark.parametrize("old", [b"old", b"an old one", None])
def test_a_killed_job_is_completed_by_the_next_run(
    out: Path, monkeypatch: pytest.MonkeyPatch, kind: type, number: int, old: bytes | None
) -> None:
    if old:
        commit(results(out, "before", kind), old)

    def kill() -> None:
        def fail(*_: object) -> None:
            raise KilledError

        patch.setattr(kind, "delete", fail)
        raise KilledError

    with monkeypatch.context() as patch:
        done = before_operation(patch, kind, number, kill)
        with pytest.raises(KilledError):
            commit(results(out, "now", kind), b"new")
        assert len(done) == number
    again = results(out, "now", kind)
    assert not again.is_done(ITEM)
    commit(again, b"new")
    assert again.is_done(ITEM)
    assert (out / ITEM.result).read_bytes() == b"new"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", range(1, 6))
def test_two_jobs_in_one_folder_take_nothing_from_each_other(
    out: Path, monkeypatch: pytest.MonkeyPatch, kind: type, number: int
) -> None:
    commit(results(out, "before", kind), b"old")
    with monkeypatch.context() as patch:

        def other_job() -> None:
            job = results(out, "now", kind)
            job.sweep([ITEM])
            commit(job, b"new")

        done = before_operation(patch, kind, number, other_job)
        commit(results(out, "now", kind), b"new")
        assert len(done) == 10
    assert results(out, "now", kind).is_done(ITEM)
    assert (out / ITEM.result).read_bytes() == b"new"
    assert len(files(out)) == 2, "expected the result and its record"


def test_a_failed_write_leaves_no_temporary_files(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError("no space left")

    before_operation(monkeypatch, LocalFolder, 2, fail)
    with pytest.raises(OSError, match="no space left"):
        commit(results(out, "now"), b"new")
    assert files(out) == []


@pytest.mark.parametrize("kind", KINDS)
def test_only_old_temporary_files_are_deleted(out: Path, kind: type) -> None:
    old = time.time() - 2 * MAX_AGE
    paths = [out / f / n for f in ("sub", RECORDS) for n in (".lpnsr-1.part", "mine.part")]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    results(out, "now", kind).sweep([ITEM])
    assert set(files(out)) == set(paths)
    for path in paths:
        os.utime(path, (old, old))
    results(out, "now", kind).sweep([ITEM])
    assert set(files(out)) == {path for path in paths if path.name == "mine.part"}
