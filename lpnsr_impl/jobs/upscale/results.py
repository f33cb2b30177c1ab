"""Results and how they were made.

Each result has a record, a small JSON file in `.lpnsr` beside the results: from which input (name,
size, time) it was made, by which settings, and its size. Both come whole or not at all, and what is
whole is never lost, wherever a run is killed and whoever else works in the same folder:

1. The record is written under a temporary name, then the result, beside its place.
2. The record takes its name. It names the result's temporary file, so as long as there is one, it
   is this file that the record speaks of, and anyone may finish:
3. The result takes its name, in place of the one before.

A run that begins finishes what others left whole after 1. Other temporary files are of runs that
write them at this moment, or that were killed: they go once they are old.
"""

import json
import logging
import re
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath

from .folders import Folder, Stat, open_folder
from .formats import RECORDS, record_name
from .plan import Item

logger = logging.getLogger(__name__)

AT_A_TIME = 32
"""Requests, each of which waits for the network where folders are in the cloud."""

ABANDONED = 24 * 3600
"""Age in seconds of a temporary file that nobody writes any more: each is written at once."""

_PART = re.compile(r"\.lpnsr-(?P<run>[0-9a-f]+)(-(?P<key>[0-9a-f]+)-[0-9a-f]+)?\.part")
"""Names of temporary files: `key` is that of the record. (Older versions had none.)"""


@dataclass(frozen=True)
class Record:
    """How a result was made.

    Attributes:
        name, size, mtime_ns: of the input.
        settings: fingerprint.
        result_size: in bytes.
        run: of the job that made it.
        result: its name.
        part: temporary file that is the result until it takes its name.
        replaces: `run` of the record before, if there was one.
    """

    name: str
    size: int
    mtime_ns: int
    settings: str
    result_size: int
    run: str
    result: str = ""
    part: str = ""
    replaces: str = ""


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
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:16])


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
        record = self._record(name)  # first, since it may put the result there
        found = self._out.stat(name)
        if found is None or self._job.overwrite:
            return
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

        Raises:
            OSError: it can't be written. If it is whole all the same, the next run puts it there.
        """
        job, before = self._job, self._record(name)
        key = PurePosixPath(record_name(name)).stem
        part = PurePosixPath(name).with_name(f".lpnsr-{job.run}-{key}-{uuid.uuid4().hex[:8]}.part")
        note = f"{RECORDS}/{part.name}"
        record = Record(
            item.name, made_from.size, made_from.mtime_ns, job.settings, len(data), job.run,
            result=name, part=str(part), replaces=before.run if before else "",
        )  # fmt: skip
        try:
            self._out.put(note, json.dumps(asdict(record)).encode())
            self._out.put(record.part, data)
        except BaseException:
            self._out.delete(record.part)
            self._out.delete(note)
            raise
        self._finish(note, record)

    def sweep(self, items: Sequence[Item]) -> None:
        """Finish what stopped runs had whole of these pictures, and delete what they had not.

        What this job has begun counts as stopped: call it before and after, and not meanwhile.
        """
        self._sweep_folder(RECORDS)  # they tell what to do with the others
        folders = {str(PurePosixPath(item.result).parent) for item in items}
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            list(pool.map(self._sweep_folder, folders))

    def _sweep_folder(self, folder: str) -> None:
        try:
            for name in self._out.within(folder):
                if part := _PART.fullmatch(PurePosixPath(name).name):
                    self._sweep_part(name, part["run"], part["key"])
        except OSError as e:
            logger.warning("Temporary files in %s are left as they are: %s", folder, e)

    def _sweep_part(self, name: str, run: str, key: str | None) -> None:
        if PurePosixPath(name).parent.name == RECORDS:
            record = self._parse(name)
            if record and self._may_finish(record):
                return self._finish(name, record)
        else:
            record = self._parse(f"{RECORDS}/{key}.json")
            if record and record.part == name:
                return self._move(name, record.result)
        found = self._out.stat(name)
        # Not every file system tells a time.
        age = time.time() - found.mtime_ns / 1e9 if found and found.mtime_ns else 0
        if run == self._job.run or age > ABANDONED:
            self._out.delete(name)

    def _may_finish(self, record: Record) -> bool:
        """Whether a result is whole, and its place as its run found it."""
        part = self._out.stat(record.part)
        if part is None or part.size != record.result_size:
            return False
        now = self._record(record.result)
        if now is None:
            return not record.replaces and self._out.stat(record.result) is None
        return now.run == record.replaces

    def _finish(self, note: str, record: Record) -> None:
        """Give record and result their names. Another run may do so at the same time."""
        self._move(note, record_name(record.result))
        self._record(record.result)  # moves the result, or another run's that came later
        self._out.delete(record.part)

    def _move(self, name: str, new_name: str) -> None:
        """If it is there."""
        if self._out.stat(name) is None:
            return
        try:
            self._out.move(name, new_name)
        except OSError:
            if self._out.stat(name) is not None:  # else another run was faster
                raise

    def _is_current(self, result: str, item: Item, made_from: Stat) -> bool:
        record = self._record(result)
        found = self._out.stat(result) if record else None
        if found is None or record is None or found.size != record.result_size:
            return False
        if self._job.overwrite and record.run != self._job.run:
            return False
        input_then = (record.name, record.size, record.mtime_ns)
        input_now = (item.name, made_from.size, made_from.mtime_ns)
        return input_then == input_now and record.settings == self._job.settings

    def _record(self, result: str) -> Record | None:
        """What its record says, the result being in its place then. None as in `_parse`."""
        record = self._parse(record_name(result))
        if record and record.part:
            self._move(record.part, result)
        return record

    def _parse(self, name: str) -> Record | None:
        """None if there is no record of this file name, or none that can be read."""
        if self._out.stat(name) is None:
            return None
        try:
            return Record(**json.loads(self._out.read(name)))
        except FileNotFoundError:  # another run was faster
            return None
        except (ValueError, TypeError):
            logger.warning("The record %s is damaged; it does not count.", name)
            return None
