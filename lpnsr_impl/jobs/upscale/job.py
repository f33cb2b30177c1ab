"""Pictures from file to file, one by one, and what became of them."""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass

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
    """What became of a picture: MADE now, DONE before, or FAILED.

    `text` is for the user; `is_full` says that there is no room for any result.
    """

    name: str
    status: str
    text: str
    seconds: float = 0.0
    is_full: bool = False


class Worker:
    """Does the pictures of a job."""

    def __init__(self, job: Job, networks: Networks) -> None:
        self._results = Results(job)
        self._networks = networks

    def do(self, item: Item) -> Outcome:
        """Upscale a picture unless it is done. All that goes wrong is in the outcome."""
        began = time.monotonic()
        try:
            if self._results.is_done(item):
                return Outcome(item.name, DONE, "done before")
            text = self._make(item)
        except Exception as e:  # noqa: BLE001  (whatever it is, the other pictures go on)
            full = isinstance(e, OSError) and is_full(e)
            return Outcome(item.name, FAILED, str(e) or type(e).__name__, is_full=full)
        return Outcome(item.name, MADE, text, time.monotonic() - began)

    def _make(self, item: Item) -> str:
        data, made_from = self._results.read_input(item)
        picture = read_picture_data(data)
        passes = self._networks.passes(picture)
        name, format = _choose(item, picture, passes[-1].size)
        self._results.refuse_foreign(name)
        result = self._networks(picture)
        self._results.commit(name, encode_picture(result, format), item, made_from)
        notes = list(picture.notes)
        if bits_lost(picture, format):
            notes.append("16 bits become 8")
        if name != item.name:
            notes.insert(0, f"as {name}")
        return "; ".join([describe(passes), *notes])


class Report:
    """Tells the user how a job goes, and at the end what failed."""

    def __init__(self, total: int, problems: dict[str, str]) -> None:
        """`problems` are those found before, by name."""
        self._total = total
        self._failed = dict(problems)
        self._made = 0
        self._seen = 0
        self._began = time.monotonic()

    def follow(self, outcomes: Iterable[Outcome]) -> None:
        """Log a line for each picture. Ends where there is no room for more."""
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
                logger.error("There is no room for results. Make some, and run it again to go on.")
                return

    def finish(self) -> int:
        """Log a summary; give the exit code, which is 1 if anything failed."""
        not_tried = self._total - self._seen
        rest = f", {not_tried} not tried" if not_tried else ""
        logger.info("%d made, %d failed%s.", self._made, len(self._failed), rest)
        for name, reason in self._failed.items():
            logger.error("failed: %s: %s", name, reason)
        return 1 if self._failed or not_tried else 0


def duration(seconds: float) -> str:
    """As 45 s, 3 min 20 s, or 5 h 2 min."""
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {s} s" if minutes else f"{s} s"


def _choose(item: Item, picture: FilePicture, size: tuple[int, int]) -> tuple[str, Format]:
    """Name and format of a result of (height, width).

    Raises:
        ValueError: the format can't hold it, and there is no other.
    """
    format = format_of(item.result)
    assert format is not None  # the plan gives no other names
    lost = what_is_lost(picture, format, size)
    if lost is None and item.spare and bits_lost(picture, format):
        lost = "16 bits"
    if lost is None:
        return item.result, format
    if item.spare:
        return item.spare, SPARE
    kind = next(key for key, value in FORMATS.items() if value is format)
    raise ValueError(f"{kind} can't hold {lost}. Give --format png or tif")
