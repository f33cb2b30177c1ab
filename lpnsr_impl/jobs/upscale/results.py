"""Results and how they were made.

Each result has a record, a small JSON file in `.lpnsr` beside the results: from which input (name,
size, time) it was made, by which settings, and its size. It is written just before the result takes
its name, so a record without its result counts for nothing, and a result is never without one.
"""

import json
import logging
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath

from .folders import Folder, Stat, open_folder, write
from .formats import RECORDS, record_name
from .plan import Item

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """How a result was made. `run` is of the job that made it."""

    name: str
    size: int
    mtime_ns: int
    settings: str
    result_size: int
    run: str


@dataclass(frozen=True)
class Job:
    """What all workers of a job know.

    Attributes:
        source, out: folders, as paths or URIs.
        settings: fingerprint.
        overwrite: make results of other runs again, and replace files that are no results.
        run: of its own for each run.
    """

    source: str
    out: str
    settings: str
    overwrite: bool = False
    run: str = field(default_factory=lambda: uuid.uuid4().hex)


class Results:
    """The folder of results of a job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._source: Folder = open_folder(job.source)
        self._out: Folder = open_folder(job.out)

    def is_done(self, item: Item) -> bool:
        """Whether the result is there, of this input and these settings.

        Raises:
            OSError: a folder can't be read.
        """
        made_from = self._source.stat(item.name)
        return made_from is not None and any(
            self._is_current(name, item, made_from) for name in (item.result, item.spare) if name
        )

    def read_input(self, item: Item) -> tuple[bytes, Stat]:
        """Contents of a picture's file, and its state just before.

        Raises:
            OSError: it can't be read.
        """
        made_from = self._source.stat(item.name)
        if made_from is None:
            raise FileNotFoundError("the file is gone, or it is a link to nothing")
        return self._source.read(item.name), made_from

    def refuse_foreign(self, name: str) -> None:
        """Check that a result of this name replaces nothing but an older result.

        Raises:
            ValueError: it would, and the job is not to overwrite.
        """
        found = self._out.stat(name)
        if found is None or self._job.overwrite:
            return
        record = self._record(name)
        if record is None:
            raise ValueError(
                f"{name} is there already, and was not made by this command. Delete it, or give "
                "--overwrite"
            )
        if record.result_size != found.size:
            raise ValueError(
                f"{name} is not as it was made: it has {found.size} bytes, and had "
                f"{record.result_size}. Delete it, or give --overwrite"
            )

    def commit(self, name: str, data: bytes, item: Item, made_from: Stat) -> None:
        """Put a result in its place, with its record.

        A result that is there goes first: beside the new record it could be taken for the new one.

        Raises:
            OSError: it can't be written; nothing of it is left then.
        """
        job = self._job
        record = Record(
            item.name, made_from.size, made_from.mtime_ns, job.settings, len(data), job.run
        )
        part = self._out.put_part(name, data)
        try:
            self._out.delete(name)
            write(self._out, record_name(name), json.dumps(asdict(record)).encode())
            self._out.move(part, name)
        except BaseException:
            self._out.delete(part)
            raise

    def sweep(self, items: Sequence[Item]) -> None:
        """Delete the temporary files that a killed run of these pictures left."""
        self._out.sweep([RECORDS, *{str(PurePosixPath(item.result).parent) for item in items}])

    def _is_current(self, result: str, item: Item, made_from: Stat) -> bool:
        found = self._out.stat(result)
        record = self._record(result) if found else None
        if found is None or record is None or found.size != record.result_size:
            return False
        if self._job.overwrite and record.run != self._job.run:
            return False
        input_then = (record.name, record.size, record.mtime_ns)
        input_now = (item.name, made_from.size, made_from.mtime_ns)
        return input_then == input_now and record.settings == self._job.settings

    def _record(self, result: str) -> Record | None:
        """None if there is none, or none that can be read."""
        name = record_name(result)
        if self._out.stat(name) is None:
            return None
        try:
            return Record(**json.loads(self._out.read(name)))
        except (ValueError, TypeError):
            logger.warning("The record of %s is damaged; it does not count.", result)
            return None
