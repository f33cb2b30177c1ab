"""Files that shipped workflows load, put where the workflows look for them: once, whatever becomes
of them there."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from .whole import written_whole


def offer(examples: Sequence[Path], folder: Path, record: Path) -> None:
    """Copy files into a folder, each once for good: what a user has deleted stays away.

    No file that is there is touched. What can't be made is logged and tried again next time.

    Args:
        examples: files.
        folder: where they go.
        record: a text file that remembers what was offered where.
    """
    try:
        offered = os.fsdecode(record.read_bytes()).splitlines() if record.is_file() else []
        copied = [
            str(folder / example.name)
            for example in examples
            if str(folder / example.name) not in offered and _copied(example, folder / example.name)
        ]
        if copied:
            record.parent.mkdir(parents=True, exist_ok=True)
            with record.open("ab") as file:
                file.writelines(os.fsencode(f"{name}\n") for name in copied)
    except OSError as e:
        logging.warning(
            "LPNSR: %s can't be kept (%s); examples that you delete will come back.", record, e
        )


def _copied(example: Path, target: Path) -> bool:
    """Whether the file is there now."""
    content = example.read_bytes()
    try:
        with written_whole(target, replace=False) as file:
            file.write(content)
    except FileExistsError:
        return True
    except OSError as e:
        logging.warning(
            "LPNSR: %s can't be made (%s); choose a file of yours in the workflow.", target, e
        )
        return False
    return True
