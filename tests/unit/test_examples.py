"""Example files are copied into the input folder once, and never overwrite files of the user."""

import errno
import io
from pathlib import Path

import pytest

from lpnsr_impl.files import examples
from lpnsr_impl.files.examples import offer


@pytest.fixture
def shipped(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "pack"
    folder.mkdir()
    files = [folder / "a.png", folder / "b.mp4"]
    for file in files:
        file.write_bytes(file.name.encode() * 1000)
    return files


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = tmp_path / "input ü"
    folder.mkdir()
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_a_user_deletes_stays_away(shipped: list[Path], inputs: Path, tmp_path: Path) -> None:
    record = tmp_path / "user" / "__lpnsr" / "examples.txt"
    offer(shipped, inputs, record)
    assert {file.read_bytes() for file in inputs.iterdir()} == {f.read_bytes() for f in shipped}
    (inputs / "a.png").unlink()
    offer(shipped, inputs, record)
    assert names(inputs) == {"b.mp4"}
    later = shipped[0].with_name("c.png")
    later.write_bytes(b"c")
    offer([*shipped, later], inputs, record)
    assert names(inputs) == {"b.mp4", "c.png"}, "only the file of a newer version should be added"
    other = tmp_path / "other"
    other.mkdir()
    offer(shipped, other, record)
    assert names(other) == {"a.png", "b.mp4"}, "another input folder should get all files"


def test_a_users_file_of_the_name_is_kept(
    shipped: list[Path], inputs: Path, tmp_path: Path
) -> None:
    (inputs / "a.png").write_text("mine")
    (inputs / "b.mp4").symlink_to("nowhere")
    offer(shipped, inputs, tmp_path / "examples.txt")
    assert (inputs / "a.png").read_text() == "mine"
    assert (inputs / "b.mp4").is_symlink()
    assert not (inputs / "nowhere").exists()
    (inputs / "a.png").unlink()
    offer(shipped, inputs, tmp_path / "examples.txt")
    assert names(inputs) == {"b.mp4"}


def test_a_full_disk_gets_no_half_file_and_another_try(
    shipped: list[Path], inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    real = Path.open

    class Full(io.FileIO):
        def write(self, data: bytes) -> int:  # type: ignore[override]
            super().write(data[:10])
            raise OSError(errno.ENOSPC, "No space left on device")

    def full(path: Path, mode: str = "r", **options: str) -> object:
        return Full(path, "w") if mode == "wb" else real(path, mode, **options)

    with monkeypatch.context() as patched:
        patched.setattr(examples.Path, "open", full)
        offer(shipped, inputs, tmp_path / "examples.txt")
    assert names(inputs) == set()
    assert f"{inputs / 'a.png'} can't be written" in caplog.text
    offer(shipped, inputs, tmp_path / "examples.txt")
    assert names(inputs) == {"a.png", "b.mp4"}


def test_examples_come_where_nothing_can_be_remembered(
    shipped: list[Path], inputs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "user").write_text("no folder")
    offer(shipped, inputs, tmp_path / "user" / "examples.txt")
    assert names(inputs) == {"a.png", "b.mp4"}
    assert "Examples that you delete will be copied again" in caplog.text


def test_a_damaged_record_counts_for_nothing(
    shipped: list[Path], inputs: Path, tmp_path: Path
) -> None:
    (tmp_path / "examples.txt").write_bytes(b"\xff\x00\nxx")
    offer(shipped, inputs, tmp_path / "examples.txt")
    assert names(inputs) == {"a.png", "b.mp4"}
