"""Atomic writes: a file is never left incomplete, even after a crash or a power cut."""

import contextlib
import os
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def written_whole(path: Path, *, replace: bool = True) -> Generator[BinaryIO]:
    """Open a temporary file that is renamed to `path` after its contents are on disk.

    Missing folders are created. If an error occurs, an existing file at `path` stays unchanged.

    Raises:
        FileExistsError: `path` exists and `replace` is False.
        OSError: `path` can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(part, path)
        else:
            rename_new(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def rename_new(path: Path, target: Path) -> None:
    """Rename a file, but never replace another file, not even one created at the same time.

    Raises:
        FileExistsError: `target` exists; both files are unchanged.
        OSError: the file can't be renamed.
    """
    try:
        os.link(path, target)
    except FileExistsError:
        raise
    except OSError:  # no hard links on this file system: reserve the name with an empty file
        target.touch(exist_ok=False)
        try:
            path.replace(target)
        except OSError:
            target.unlink()
            raise
    else:
        path.unlink()


def _sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk. No-op on Windows, where folders can't be opened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
