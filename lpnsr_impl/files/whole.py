"""Atomic writes: a file is complete or absent, even after a crash or a power cut."""

import contextlib
import os
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def written_whole(path: Path, *, replace: bool = True) -> Generator[BinaryIO]:
    """Open a temporary file that becomes `path` once all of it is on disk.

    Missing folders are created. After an error an existing file at `path` is unchanged.

    Raises:
        FileExistsError: `path` exists and `replace` is off.
        OSError: it can't be written.
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
    """Rename a file without ever replacing another one, not even one created at the same moment.

    Raises:
        FileExistsError: `target` exists; both files are unchanged.
        OSError: it can't be renamed.
    """
    try:
        os.link(path, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: reserve the name with an empty file
        target.touch(exist_ok=False)
        try:
            path.replace(target)
        except OSError:
            target.unlink()
            raise
    else:
        path.unlink()


def _sync_folder(folder: Path) -> None:
    """Write the names in a folder to disk, on systems that can open one (Windows cannot)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
