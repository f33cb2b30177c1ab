"""Results on disk, each with a record of how it was made.

A record is a small JSON file in the folder `.lpnsr` beside the results. It names the input (name,
size, time), the settings and the size of the result. Result and record are written under temporary
names of their own and then renamed, so a file with a result's name is always whole, also when two
jobs write to one folder. A job that is killed between the two renames leaves a record without a
result, and the next run makes the picture again.
"""

import json
import logging
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from pathlib import PurePosixPath

from .folders import Folder, Stat, open_folder
from .formats import RECORDS, record_name
from .plan import Item

logger = logging.getLogger(__name__)

MAX_REQUESTS = 32
"""Requests at a time, for folders in the cloud."""

MAX_AGE = 24 * 3600
"""Age in seconds above which a temporary file belongs to a job that was killed."""


@dataclass(frozen=True)
class Record:
    """How a result was made.

    Attributes:
        name, size, mtime_ns: of the input.
        settings: fingerprint of the settings.
        result_size: in bytes.
        run: id of the job.
    """

    name: str
    size: int
    mtime_ns: int
    settings: str
    result_size: int
    run: str


@dataclass(frozen=True)
class Job:
    """What all workers of a job need to know.

    Attributes:
        source, out: folders, as paths or URIs.
        settings: fingerprint of the settings.
        overwrite: remake results of other jobs, and replace files that are no results.
        strip_metadata: leave out EXIF, XMP, IPTC and text.
        run: id of this job.
    """

    source: str
    out: str
    settings: str
    overwrite: bool = False
    strip_metadata: bool = False
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:16])


class Results:
    """The inputs and results of a job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._source: Folder = open_folder(job.source)
        self._out: Folder = open_folder(job.out)

    def is_done(self, item: Item) -> bool:
        """Whether the result exists and was made from this input with these settings.

        Raises:
            OSError: a folder can't be read.
        """
        made_from = self._source.stat(item.name)
        return made_from is not None and any(
            self._is_current(name, item, made_from) for name in (item.result, item.spare) if name
        )

    def read_input(self, item: Item) -> tuple[bytes, Stat]:
        """Contents of a picture's file, and its state just before reading.

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
            ValueError: it would replace another file, and `Job.overwrite` is not set.
        """
        found = self._out.stat(name)
        if found is None or self._job.overwrite:
            return
        record = self._read_record(name)
        if record is None:
            raise ValueError(
                f"{name} is there already, and was not made by this command. Delete it, or give "
                "--overwrite"
            )
        if record.result_size != found.size:
            raise ValueError(
                f"{name} was changed since it was made: it has {found.size} bytes, and had "
                f"{record.result_size}. Delete it, or give --overwrite"
            )

    def commit(self, name: str, data: bytes, item: Item, made_from: Stat) -> None:
        """Write a result and its record.

        Raises:
            OSError: they can't be written.
        """
        job = self._job
        record = Record(
            item.name, made_from.size, made_from.mtime_ns, job.settings, len(data), job.run
        )
        contents = {record_name(name): json.dumps(asdict(record)).encode(), name: data}
        parts = {target: _part_name(target) for target in contents}
        try:
            for target, part in parts.items():
                self._out.put(part, contents[target])
            self._out.delete(name)  # an old result with the new record would pass for the new one
            for target, part in parts.items():
                self._out.move(part, target)
        except BaseException:
            for part in parts.values():
                self._out.delete(part)
            raise

    def sweep(self, items: Sequence[Item]) -> None:
        """Delete temporary files that killed jobs left beside these results."""
        folders = {str(PurePosixPath(item.result).parent) for item in items} | {RECORDS}
        with ThreadPoolExecutor(MAX_REQUESTS) as pool:
            list(pool.map(self._sweep_folder, folders))

    def _sweep_folder(self, folder: str) -> None:
        try:
            for name in self._out.list_files(folder):
                if PurePosixPath(name).match(".lpnsr-*.part"):
                    found = self._out.stat(name)
                    # Some file systems report no time.
                    if found and found.mtime_ns and time.time() - found.mtime_ns / 1e9 > MAX_AGE:
                        self._out.delete(name)
        except OSError as e:
            logger.warning("Temporary files in %s are left as they are: %s", folder, e)

    def _is_current(self, result: str, item: Item, made_from: Stat) -> bool:
        record = self._read_record(result)
        found = self._out.stat(result) if record else None
        if found is None or record is None or found.size != record.result_size:
            return False
        if self._job.overwrite and record.run != self._job.run:
            return False
        input_then = (record.name, record.size, record.mtime_ns)
        input_now = (item.name, made_from.size, made_from.mtime_ns)
        return input_then == input_now and record.settings == self._job.settings

    def _read_record(self, result: str) -> Record | None:
        """None if there is no record, or if it can't be read."""
        name = record_name(result)
        if self._out.stat(name) is None:
            return None
        try:
            values = json.loads(self._out.read(name))
            return Record(**{f.name: values[f.name] for f in fields(Record)})
        except (ValueError, TypeError, KeyError):
            logger.warning("The record %s is damaged and ignored.", name)
            return None


def _part_name(name: str) -> str:
    """A temporary name beside a file's; short, however long the file's name is."""
    return str(PurePosixPath(name).with_name(f".lpnsr-{uuid.uuid4().hex}.part"))
