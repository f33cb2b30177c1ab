"""Results on disk: what a kill leaves at any moment, and two runs in one folder."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lpnsr_impl.jobs.upscale.folders import ArrowFolder, Folder, LocalFolder
from lpnsr_impl.jobs.upscale.formats import RECORDS
from lpnsr_impl.jobs.upscale.plan import Item
from lpnsr_impl.jobs.upscale.results import ABANDONED, Job, Results

PACK = Path(__file__).parents[2]
ITEM = Item("a.png", "sub/a.png")
RESULT = "sub/a.png"
OPERATIONS = ("put", "move", "delete")
KINDS: list[type[Folder]] = [LocalFolder, ArrowFolder]
OLD = [None, b"an old one", b"old"]
NEW, OTHER = b"new", b"of another run"
"""Contents of results. Files of one size can only be told apart by their records."""


class KilledError(BaseException):
    """The process is gone: nothing that it would have done afterwards is done."""


class Operations:
    """Counts what is done to folders, and does something else before one of them."""

    def __init__(self, patch: pytest.MonkeyPatch, kind: type[Folder]) -> None:
        self.done: list[str] = []
        self._real = {name: getattr(kind, name) for name in OPERATIONS}
        for name in OPERATIONS:
            patch.setattr(kind, name, self._counted(name))
        self.before: Callable[[int, str, Folder, tuple[Any, ...]], None] = lambda *_: None

    def _counted(self, operation: str) -> Callable[..., None]:
        def counted(folder: Folder, *arguments: Any) -> None:
            self.before(len(self.done), operation, folder, arguments)
            self._real[operation](folder, *arguments)
            self.done.append(operation)

        return counted

    def kill_at(self, number: int, *, within: bool) -> None:
        """Before an operation, or within it if it writes."""

        def before(n: int, operation: str, folder: Folder, arguments: tuple[Any, ...]) -> None:
            if n < number:
                return
            if n == number and within and operation == "put":
                name, data = arguments
                self._real["put"](folder, name, data[: len(data) // 2])
                self.done += ["half"] * 99  # and never again
            raise KilledError

        self.before = before

    def call_at(self, number: int, other: Callable[[], None]) -> None:
        """What another process does before an operation of this one."""

        def before(n: int, *_: Any) -> None:
            if n == number:
                self.before = lambda *_: None
                other()
                self.before = before

        self.before = before


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """Folders of pictures and of results."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"a picture")
    return tmp_path / "in", tmp_path / "out"


def results(places: tuple[Path, Path], settings: str, kind: type[Folder] = LocalFolder) -> Results:
    """Those of a new run."""
    source, out = (p.as_uri() if kind is ArrowFolder else str(p) for p in places)
    return Results(Job(source, out, settings))


def commit(run: Results, data: bytes) -> None:
    run.refuse_foreign(RESULT)
    _, made_from = run.read_input(ITEM)
    run.commit(RESULT, data, ITEM, made_from)


def content(out: Path) -> bytes | None:
    path = out / RESULT
    return path.read_bytes() if path.exists() else None


def everything(out: Path) -> list[Path]:
    return [path for path in out.rglob("*") if path.is_file()]


def age(out: Path) -> None:
    """Make all files old."""
    then = time.time() - 2 * ABANDONED
    for path in everything(out):
        os.utime(path, (then, then))


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("old", OLD)
def test_a_kill_at_any_operation_loses_nothing_and_the_next_run_ends_right(
    places: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    old: bytes | None,
    kind: type[Folder],
    within: bool,
) -> None:
    out = places[1]
    for number in range(99):
        for path in everything(out):
            path.unlink()
        if old is not None:
            commit(results(places, "before", kind), old)
        with monkeypatch.context() as patch:
            operations = Operations(patch, kind)
            operations.kill_at(number, within=within)
            run = results(places, "now", kind)
            try:
                commit(run, NEW)
            except KilledError:
                killed = True
            else:
                killed = False
        assert content(out) in (old, NEW), number
        assert killed or content(out) == NEW

        again = results(places, "now", kind)
        again.sweep([ITEM])
        whole = [name for name in operations.done if name == "put"] == ["put", "put"]
        assert again.is_done(ITEM) == whole, number
        assert content(out) == (NEW if whole else old)
        if not whole:
            commit(again, NEW)
        assert again.is_done(ITEM)
        assert content(out) == NEW
        age(out)
        again.sweep([ITEM])
        assert len(everything(out)) == 2, "the result and its record"
        if not killed:
            assert number > 3
            return
    pytest.fail("it never came to an end")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("begins", [True, False])
@pytest.mark.parametrize("settings", ["now", "others"])
@pytest.mark.parametrize("old", OLD)
def test_another_run_at_any_moment_takes_nothing_away(
    places: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    old: bytes | None,
    settings: str,
    begins: bool,
    kind: type[Folder],
) -> None:
    """A whole run of the same pictures between any two operations of the first, or the part of one
    that has begun before."""
    out = places[1]

    def another() -> None:
        run = results(places, settings, kind)
        if begins:
            run.sweep([ITEM])
        if not run.is_done(ITEM):
            commit(run, OTHER)
        assert run.is_done(ITEM)
        run.sweep([ITEM])
        assert content(out) in (NEW, OTHER)

    for number in range(99):
        for path in everything(out):
            path.unlink()
        if old is not None:
            commit(results(places, "before", kind), old)
        with monkeypatch.context() as patch:
            operations = Operations(patch, kind)
            operations.call_at(number, another)
            run = results(places, "now", kind)
            run.sweep([ITEM])
            commit(run, NEW)
            run.sweep([ITEM])
        last = "now" if content(out) == NEW else settings
        assert results(places, last, kind).is_done(ITEM), number
        assert len(everything(out)) == 2, number
        if len(operations.done) <= number:
            return
    pytest.fail("it never came to an end")


@pytest.mark.parametrize("old", OLD)
def test_a_result_counts_as_soon_as_it_has_its_record(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, old: bytes | None
) -> None:
    """For a run that has begun before, and so finishes nothing at its start."""
    for look in (Results.is_done, lambda run, _: run.refuse_foreign(RESULT) is None):
        for path in everything(places[1]):
            path.unlink()
        if old is not None:
            commit(results(places, "before"), old)
        with monkeypatch.context() as patch:
            Operations(patch, LocalFolder).kill_at(3, within=False)  # before the result is moved
            with pytest.raises(KilledError):
                commit(results(places, "now"), NEW)
        assert content(places[1]) == old
        assert look(results(places, "now"), ITEM)
        assert content(places[1]) == NEW


def test_what_a_killed_run_had_whole_does_not_replace_what_came_later(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        Operations(patch, LocalFolder).kill_at(2, within=False)  # before anything is moved
        with pytest.raises(KilledError):
            commit(results(places, "now"), NEW)
    commit(results(places, "others"), OTHER)
    results(places, "others").sweep([ITEM])
    assert content(places[1]) == OTHER
    assert results(places, "others").is_done(ITEM)


def test_temporary_files_go_once_nobody_can_be_writing_them(places: tuple[Path, Path]) -> None:
    """Those of older versions, too, which had other names."""
    out = places[1]
    names = [".lpnsr-0123.part", ".lpnsr-01-23-45.part", "mine.part"]
    parts = {out / folder / name for folder in ("sub", RECORDS) for name in names}
    for path in parts:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{")
    run = results(places, "now")
    run.sweep([ITEM])
    assert set(everything(out)) == parts
    age(out)
    run.sweep([ITEM])
    assert set(everything(out)) == {path for path in parts if path.name == "mine.part"}


def test_records_of_older_versions_count(places: tuple[Path, Path]) -> None:
    commit(results(places, "now"), OTHER)
    (record,) = (places[1] / RECORDS).iterdir()
    text = record.read_text()
    record.write_text(text[: text.index(', "result":')] + "}")
    run = results(places, "now")
    assert run.is_done(ITEM)
    commit(run, NEW)
    assert run.is_done(ITEM)
    assert content(places[1]) == NEW


def test_two_commands_in_one_folder_make_every_picture(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    with Image.open(PACK / "workflows" / "lpnsr_example.png") as file:
        for i in range(30):
            file.convert("RGB").crop((i, i, i + 8, i + 8)).save(source / f"{i:02}.png")
    command = [sys.executable, "-m", "lpnsr_impl", "upscale", str(source), str(out)]
    options = ["--device", "cpu", "--steps", "1", "--preset", "A"]
    runs = [
        subprocess.Popen(
            [*command, *options],
            cwd=PACK,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for _ in range(2)
    ]
    for run in runs:
        text, _ = run.communicate(timeout=300)
        assert run.returncode == 0, text
    assert {path.name for path in out.iterdir()} == {p.name for p in source.iterdir()} | {RECORDS}
    assert len(list((out / RECORDS).iterdir())) == 30
    for path in out.glob("*.png"):
        with Image.open(path) as file:
            file.load()
            assert file.size == (32, 32)
