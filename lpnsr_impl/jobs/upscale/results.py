"""Writes results, each with a record of how it was made.

A record is a small JSON file in the subfolder `.lpnsr` of the output folder. It contains the
input's name, size and modification time, the settings, and the size of the result. Results and
records are first written under unique temporary names and then renamed, so a result is never
incomplete, even if two jobs write to the same folder. A job that is killed between the two renames
leaves a record without a result, and the next run makes the result again.
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
"""Number of parallel requests to a folder. They make cloud storage faster."""

MAX_AGE = 24 * 3600
"""Age in seconds above which a temporary file is assumed to be left by a killed job."""


@dataclass(frozen=True)
class Record:
    """Record of how a result was made.

    Attributes:
        name, size, mtime_ns: name of the input, its size in bytes, and its modification time.
        settings: fingerprint of the settings.
        result_size: size of the result in bytes.
        run: ID of the job.
    """

    name: str
    size: int
    mtime_ns: int
    settings: str
    result_size: int
    run: str


@dataclass(frozen=True)
class Job:
    """Settings that all workers of a job share.

    Attributes:
        source, out: folders of pictures and results, as paths or URIs.
        settings: fingerprint of the settings.
        overwrite: make results of other jobs again, and replace files that are not results.
        strip_metadata: leave out EXIF, XMP, IPTC and PNG text.
        run: ID of this job.
    """

    source: str
    out: str
    settings: str
    overwrite: bool = False
    strip_metadata: bool = False
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:16])


class Results:
    """Reads the inputs and writes the results of a job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._source: Folder = open_folder(job.source)
        self._out: Folder = open_folder(job.out)

    def is_done(self, item: Item) -> bool:
        """Whether the result exists and was made from this input with these settings.

        Raises:
            OSError: a folder can't be read.
        """
        input_stat = self._source.stat(item.name)
        return input_stat is not None and any(
            self._is_current(name, item, input_stat) for name in (item.result, item.spare) if name
        )

    def read_input(self, item: Item) -> tuple[bytes, Stat]:
        """Read a picture's file.

        Returns:
            Contents of the file, and its size and time before reading.

        Raises:
            OSError: the file can't be read.
        """
        input_stat = self._source.stat(item.name)
        if input_stat is None:
            raise FileNotFoundError("the file was deleted, or is a broken link")
        return self._source.read(item.name), input_stat

    def check_replaceable(self, name: str) -> None:
        """Check that a result may be written to `name`: the file does not exist, or is an unchanged
        result of this command.

        Raises:
            ValueError: neither is true, and `Job.overwrite` is not set.
        """
        current = self._out.stat(name)
        if current is None or self._job.overwrite:
            return
        record = self._read_record(name)
        if record is None:
            raise ValueError(
                f"{name} exists already, but was not made by this command. Delete it, or give "
                "--overwrite"
            )
        if record.result_size != current.size:
            raise ValueError(
                f"{name} was changed since it was made: it has {current.size} bytes, expected "
                f"{record.result_size}. Delete it, or give --overwrite"
            )

    def commit(self, name: str, data: bytes, item: Item, input_stat: Stat) -> None:
        """Write a result and its record.

        Raises:
            OSError: a file can't be written.
        """
        job = self._job
        record = Record(
            item.name, input_stat.size, input_stat.mtime_ns, job.settings, len(data), job.run
        )
        contents = {record_name(name): json.dumps(asdict(record)).encode(), name: data}
        parts = {target: _part_name(target) for target in contents}
        try:
            for target, part in parts.items():
                self._out.put(part, contents[target])
            # Otherwise, a job killed between the moves could leave an old result with a new record.
            self._out.delete(name)
            for target, part in parts.items():
                self._out.move(part, target)
        except BaseException:
            for part in parts.values():
                self._out.delete(part)
            raise

    def sweep(self, items: Sequence[Item]) -> None:
        """Delete old temporary files that killed jobs left in the result folders of these items."""
        folders = {str(PurePosixPath(item.result).parent) for item in items} | {RECORDS}
        with ThreadPoolExecutor(MAX_REQUESTS) as pool:
            list(pool.map(self._sweep_folder, folders))

    def _sweep_folder(self, folder: str) -> None:
        try:
            for name in self._out.list_files(folder):
                if PurePosixPath(name).match(".lpnsr-*.part"):
                    part = self._out.stat(name)
                    # The modification time is 0 on file systems that do not report it.
                    if part and part.mtime_ns and time.time() - part.mtime_ns / 1e9 > MAX_AGE:
                        self._out.delete(name)
        except OSError as e:
            logger.warning("Temporary files in %s could not be deleted: %s", folder, e)

    def _is_current(self, name: str, item: Item, input_stat: Stat) -> bool:
        """Whether the result `name` was made from this input with these settings."""
        record = self._read_record(name)
        result = self._out.stat(name) if record else None
        if result is None or record is None or result.size != record.result_size:
            return False
        if self._job.overwrite and record.run != self._job.run:
            return False
        input_then = (record.name, record.size, record.mtime_ns)
        input_now = (item.name, input_stat.size, input_stat.mtime_ns)
        return input_then == input_now and record.settings == self._job.settings

    def _read_record(self, result: str) -> Record | None:
        """Read the record of a result; None if it does not exist or is damaged."""
        name = record_name(result)
        if self._out.stat(name) is None:
            return None
        try:
            values = json.loads(self._out.read(name))
            return Record(**{f.name: values[f.name] for f in fields(Record)})
        except (ValueError, TypeError, KeyError):
            logger.warning("The record %s is damaged; it is ignored.", name)
            return None


def _part_name(name: str) -> str:
    """Make a unique temporary name of fixed length in the folder of a file."""
    return str(PurePosixPath(name).with_name(f".lpnsr-{uuid.uuid4().hex}.part"))
