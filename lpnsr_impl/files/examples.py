"""Copy the example files of the shipped workflows into ComfyUI's input folder, once."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from .whole import written_whole


def offer(examples: Sequence[Path], folder: Path, record: Path) -> None:
    """Copy files into a folder, each only once, so that files deleted by the user stay deleted.

    No existing file is replaced. A failed copy is logged and tried again at the next call.

    Args:
        examples: files to copy.
        folder: folder to copy them into.
        record: text file that lists the paths of all copies made so far.
    """
    try:
        offered = os.fsdecode(record.read_bytes()).splitlines() if record.is_file() else []
        copied = [
            str(folder / example.name)
            for example in examples
            if str(folder / example.name) not in offered and _copy(example, folder / example.name)
        ]
        if copied:
            record.parent.mkdir(parents=True, exist_ok=True)
            with record.open("ab") as file:
                file.writelines(os.fsencode(f"{name}\n") for name in copied)
    except OSError as e:
        logging.warning(
            "LPNSR: can't record the copied examples in %s (%s). Examples that you delete will be "
            "copied again.",
            record,
            e,
        )


def _copy(example: Path, target: Path) -> bool:
    """Copy a file unless the target exists. Return whether the target exists afterwards."""
    content = example.read_bytes()
    try:
        with written_whole(target, replace=False) as file:
            file.write(content)
    except FileExistsError:
        return True
    except OSError as e:
        logging.warning(
            "LPNSR: %s can't be written (%s); choose another file in the workflow.", target, e
        )
        return False
    return True
