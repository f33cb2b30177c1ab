"""Files that are there whole or not at all, after a kill or a power cut too."""

import contextlib
import os
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def written_whole(path: Path, *, replace: bool = True) -> Generator[BinaryIO]:
    """A file to write, which takes the place of `path` at the end, once all of it is on disk.

    Its folder is made if need be. On an error, what was there stays.

    Raises:
        FileExistsError: there is one already, and `replace` is off.
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
    """Rename a file, but never over another one, not even over one that appears at this moment.

    Raises:
        FileExistsError: there is another; both are as before.
        OSError: it can't be renamed.
    """
    try:
        os.link(path, target)
    except FileExistsError:
        raise
    except OSError:  # no hard links there: an empty file of our own takes the name first
        target.touch(exist_ok=False)
        try:
            path.replace(target)
        except OSError:
            target.unlink()
            raise
    else:
        path.unlink()


def _sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk, where the system can (Windows opens no folders)."""
    with contextlib.suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
