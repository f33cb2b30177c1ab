"""Upscales picture files one by one, and reports the outcomes."""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ...pictures.target import describe
from .folders import is_full
from .formats import FORMATS, SPARE, Format, format_of
from .networks import Networks
from .picture import FilePicture, bits_lost, encode_picture, read_picture_data, what_is_lost
from .plan import Item
from .results import Job, Results

logger = logging.getLogger(__name__)

MADE, DONE, FAILED = "made", "done", "failed"


@dataclass(frozen=True)
class Outcome:
    """Outcome of a picture.

    Attributes:
        name: of the picture.
        status: MADE now, DONE before, or FAILED.
        text: for the user.
        seconds: time it took.
        is_full: whether it failed because the disk is full.
    """

    name: str
    status: str
    text: str
    seconds: float = 0.0
    is_full: bool = False


class Worker:
    """Upscales the pictures of a job."""

    def __init__(self, job: Job, networks: Networks) -> None:
        self._results = Results(job)
        self._networks = networks
        self._strip_metadata = job.strip_metadata

    def do(self, item: Item) -> Outcome:
        """Upscale a picture unless it is done. Errors are returned as its outcome."""
        began = time.monotonic()
        try:
            if self._results.is_done(item):
                return Outcome(item.name, DONE, "done before")
            text = self._make(item)
        except Exception as e:  # noqa: BLE001  (the other pictures go on)
            full = isinstance(e, OSError) and is_full(e)
            return Outcome(item.name, FAILED, str(e) or type(e).__name__, is_full=full)
        return Outcome(item.name, MADE, text, time.monotonic() - began)

    def _make(self, item: Item) -> str:
        data, made_from = self._results.read_input(item)
        picture = read_picture_data(data)
        if self._strip_metadata:
            picture = replace(picture, metadata=picture.metadata.strip())
        passes = self._networks.passes(picture)
        name, format = _choose(item, picture, passes[-1].size)
        self._results.refuse_foreign(name)
        encoded, lost = encode_picture(self._networks(picture), format)
        self._results.commit(name, encoded, item, made_from)
        renamed = [f"as {name}"] if name != item.name else []
        return "; ".join([describe(passes), *renamed, *picture.notes, *lost])


class Report:
    """Logs the progress of a job, and at the end what failed."""

    def __init__(self, total: int, problems: dict[str, str]) -> None:
        """
        Args:
            total: number of pictures to do.
            problems: files and folders that failed before, with the reason.
        """
        self._total = total
        self._failed = dict(problems)
        self._made = 0
        self._seen = 0
        self._began = time.monotonic()

    def follow(self, outcomes: Iterable[Outcome]) -> None:
        """Log a line for each picture. Stops when the disk is full."""
        for outcome in outcomes:
            self._seen += 1
            self._made += outcome.status == MADE
            left = (time.monotonic() - self._began) / self._seen * (self._total - self._seen)
            line = f"{self._seen} of {self._total}: {outcome.name}, {outcome.text}"
            if outcome.status == FAILED:
                self._failed[outcome.name] = outcome.text
                logger.error("%s", line)
            else:
                logger.info("%s, %.1f s, %s left", line, outcome.seconds, duration(left))
            if outcome.is_full:
                logger.error(
                    "The disk is full. Free some space, and run the same command again to go on."
                )
                return

    def finish(self) -> int:
        """Log a summary, and return the exit code: 1 if anything failed."""
        not_tried = self._total - self._seen
        rest = f", {not_tried} not tried" if not_tried else ""
        logger.info("%d made, %d failed%s.", self._made, len(self._failed), rest)
        for name, reason in self._failed.items():
            logger.error("failed: %s: %s", name, reason)
        return 1 if self._failed or not_tried else 0


def duration(seconds: float) -> str:
    """Format a duration, such as 45 s, 3 min 20 s, or 5 h 2 min."""
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {s} s" if minutes else f"{s} s"


def _choose(item: Item, picture: FilePicture, size: tuple[int, int]) -> tuple[str, Format]:
    """Choose the name and the format of a result.

    Args:
        item: with the names planned.
        picture: read from its file.
        size: (height, width) of the result.

    Raises:
        ValueError: the format can't hold it, and there is no spare name.
    """
    format = format_of(item.result)
    assert format is not None  # see `result_name`
    lost = what_is_lost(picture, format, size)
    if lost is None and item.spare and bits_lost(picture, format):
        lost = "16 bits"
    if lost is None:
        return item.result, format
    if item.spare:
        return item.spare, SPARE
    kind = next(key for key, value in FORMATS.items() if value is format)
    raise ValueError(f"{kind} can't hold {lost}. Give --format png or tif")
