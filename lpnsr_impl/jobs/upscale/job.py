"""Upscales picture files one by one, and reports the outcomes."""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ...pictures.target import describe
from .folders import is_full
from .formats import FORMATS, SPARE, Format, format_of
from .networks import Networks
from .picture import FilePicture, encode_picture, find_loss, loses_bits, read_picture_data
from .plan import Item
from .results import Job, Results

logger = logging.getLogger(__name__)

MADE, DONE, FAILED = "made", "done", "failed"


@dataclass(frozen=True)
class Outcome:
    """Outcome of upscaling one picture.

    Attributes:
        name: name of the picture.
        status: MADE (upscaled now), DONE (upscaled in an earlier run) or FAILED.
        text: message for the user.
        seconds: time that the upscaling took.
        is_full: whether the upscaling failed because the disk is full.
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

    def upscale(self, item: Item) -> Outcome:
        """Upscale a picture, unless its result is up to date. Errors are not raised, but returned
        as an outcome."""
        start_time = time.monotonic()
        try:
            if self._results.is_done(item):
                return Outcome(item.name, DONE, "done before")
            text = self._make_result(item)
        except Exception as e:  # noqa: BLE001  (the other pictures are still upscaled)
            full = isinstance(e, OSError) and is_full(e)
            return Outcome(item.name, FAILED, str(e) or type(e).__name__, is_full=full)
        return Outcome(item.name, MADE, text, time.monotonic() - start_time)

    def _make_result(self, item: Item) -> str:
        """Read, upscale and write a picture. Returns a message for the user."""
        data, input_stat = self._results.read_input(item)
        picture = read_picture_data(data)
        if self._strip_metadata:
            picture = replace(picture, metadata=picture.metadata.strip())
        passes = self._networks.passes(picture)
        name, format = _choose_format(item, picture, passes[-1].size)
        self._results.check_replaceable(name)
        encoded, lost = encode_picture(self._networks(picture), format)
        self._results.commit(name, encoded, item, input_stat)
        renamed = [f"as {name}"] if name != item.name else []
        return "; ".join([describe(passes), *renamed, *picture.notes, *lost])


class Report:
    """Logs the progress of a job, and a summary with the failures at its end.

    Args:
        total: number of pictures to upscale.
        problems: {file or folder that failed during planning: reason}.
    """

    def __init__(self, total: int, problems: dict[str, str]) -> None:
        self._total = total
        self._failed = dict(problems)
        self._num_made = 0
        self._num_seen = 0
        self._start_time = time.monotonic()

    def follow(self, outcomes: Iterable[Outcome]) -> None:
        """Log a line for each picture. Returns early if the disk is full."""
        for outcome in outcomes:
            self._num_seen += 1
            self._num_made += outcome.status == MADE
            elapsed = time.monotonic() - self._start_time
            left = elapsed / self._num_seen * (self._total - self._num_seen)
            line = f"{self._num_seen} of {self._total}: {outcome.name}, {outcome.text}"
            if outcome.status == FAILED:
                self._failed[outcome.name] = outcome.text
                logger.error("%s", line)
            else:
                logger.info("%s, %.1f s, %s left", line, outcome.seconds, format_duration(left))
            if outcome.is_full:
                logger.error(
                    "The disk is full. Free some space, and run the same command again to continue."
                )
                return

    def finish(self) -> int:
        """Log a summary, and return the exit code: 1 if anything failed or was not tried."""
        not_tried = self._total - self._num_seen
        rest = f", {not_tried} not tried" if not_tried else ""
        logger.info("%d made, %d failed%s.", self._num_made, len(self._failed), rest)
        for name, reason in self._failed.items():
            logger.error("failed: %s: %s", name, reason)
        return 1 if self._failed or not_tried else 0


def format_duration(seconds: float) -> str:
    """Format a duration, such as "45 s", "3 min 20 s" or "5 h 2 min"."""
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {s} s" if minutes else f"{s} s"


def _choose_format(item: Item, picture: FilePicture, size: tuple[int, int]) -> tuple[str, Format]:
    """Choose a result's name and format: the planned ones, or a PNG if these can't store it.

    Args:
        item: planned names of the result and of the PNG.
        picture: the input.
        size: (height, width) of the result.

    Raises:
        ValueError: the format can't store the result, and `item.spare` is None.
    """
    format = format_of(item.result)
    assert format is not None  # `result_name` only returns names with a known suffix
    lost = find_loss(picture, format, size)
    if lost is None and item.spare and loses_bits(picture, format):
        lost = "16 bits"
    if lost is None:
        return item.result, format
    if item.spare:
        return item.spare, SPARE
    kind = next(key for key, value in FORMATS.items() if value is format)
    raise ValueError(f"{kind} can't hold {lost}. Give --format png or tif")
