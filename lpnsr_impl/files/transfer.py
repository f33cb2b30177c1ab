"""One file over HTTP: gone on with after cuts and in later runs, and stopped at any moment.

The network is used on a thread of its own, since a stalled connection can't be interrupted. The
caller's thread writes the file and asks `watch` whether to go on.
"""

import hashlib
import re
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from requests import Response

Watch = Callable[[int, int | None], None]
"""Told, several times a second, the bytes so far and in all (None: unknown). It raises to stop."""

_TICK = 0.2  # seconds between two calls of `watch`
_TIMEOUT = (10, 20)  # seconds to connect, and without a byte
_CHUNK = 2**16
_MOST_FAILURES = 5  # in a row, without getting further
_BUSY = {408, 425, 429, 500, 502, 503, 504}

T = TypeVar("T")


class SourceError(Exception):
    """An address that does not give the file; the next one may."""


class _ConnectionLost(Exception):  # noqa: N818
    """What a second try may mend."""


class Aside:
    """A thread for blocking work, while `tick` is called several times a second and may raise."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick = tick
        self._threads = ThreadPoolExecutor(1, "lpnsr-download")

    def __call__(self, work: Callable[[], T]) -> T:
        """The result of `work`."""
        future = self._threads.submit(work)
        while not wait([future], _TICK).done:
            self._tick()
        return future.result()

    def close(self, last: Callable[[], None] = lambda: None) -> None:
        """Call `last` when what the thread may be stuck in has ended, without waiting for that."""
        self._threads.submit(last)
        self._threads.shutdown(wait=False)


def part_files(target: Path) -> list[Path]:
    """Partial downloads of `target` that wait to be gone on with."""
    name = re.compile(re.escape(target.name) + r"\.[0-9a-f]{8}\.part")
    return sorted(path for path in target.parent.iterdir() if name.fullmatch(path.name))


def fetch(
    url: str, target: Path, watch: Watch, *, size: int | None = None, sha256: str | None = None
) -> Path:
    """Download into a partial file beside `target`, going on with one that is there.

    Args:
        url: redirects are followed.
        target: what the file is to become; its folder is there.
        watch: see `Watch`. What it raises stops the download and leaves the partial file.
        size: bytes, where known beforehand.
        sha256: of the content, where known beforehand; not checked here. A partial file is gone
            on with if it is of the same content, by this or else by the server's ETag and size.

    Returns:
        The partial file, complete.

    Raises:
        SourceError: the address does not give the file.
        OSError: it can't be written; what is there is left.
    """
    transfer = _Transfer(url, watch)
    try:
        return transfer.run(target, size, sha256)
    finally:
        transfer.aside.close(transfer.session.close)


class _Transfer:
    def __init__(self, url: str, watch: Watch) -> None:
        import requests

        self.url, self.watch = url, watch
        self.session = requests.Session()
        self.aside = Aside(self.tell)
        self.done = self.furthest = 0
        self.total: int | None = None
        self.etag: str | None = None
        self.failures = 0

    def tell(self) -> None:
        self.watch(self.done, self.total)

    def run(self, target: Path, size: int | None, sha256: str | None) -> Path:
        response: Response | None = None
        while response is None:
            response = self.patiently(partial(self.ask, 0))
        self.total = _length(response)
        if size is not None and self.total not in (None, size):
            raise SourceError(f"it has {self.total} bytes, expected {size}")
        self.total = size if self.total is None else self.total
        self.etag = response.headers.get("ETag")
        part = self.part_file(target, sha256)
        if part.exists():
            self.aside(response.close)
            response = None  # a request for the rest comes in its place
        self.require_space(part)
        while not self.patiently(partial(self.receive, part, response)):
            response = None
        return part

    def part_file(self, target: Path, sha256: str | None) -> Path:
        """Named by its content, so that no other is gone on with."""
        content = sha256 or f"{self.etag or self.url} {self.total}"
        tag = hashlib.sha256(content.encode()).hexdigest()[:8]
        part = target.with_name(f"{target.name}.{tag}.part")
        if self.total is None:
            part.unlink(missing_ok=True)  # without a size nobody knows what is missing of it
        return part

    def require_space(self, part: Path) -> None:
        if self.total is None:
            return
        needed = self.total - (part.stat().st_size if part.exists() else 0)
        free = shutil.disk_usage(part.parent).free
        if needed > free:
            raise OSError(
                f"{needed / 1e6:.1f} MB are needed in {part.parent}, and {free / 1e6:.1f} MB are "
                "free. Make room and run this again"
            )

    def patiently(self, attempt: Callable[[], T]) -> T | None:
        """The attempt's result, or None if it failed in a way that a second one may mend.

        Raises:
            SourceError: it failed too often.
        """
        try:
            return attempt()
        except _ConnectionLost as e:
            self.failures += 1
            if self.failures == _MOST_FAILURES:
                kept = f"; {self.done / 1e6:.1f} MB are kept for the next run" if self.done else ""
                raise SourceError(f"{e}{kept}") from e
        end = time.monotonic() + 2 ** (self.failures - 2)
        while time.monotonic() < end:
            self.tell()
            time.sleep(_TICK)
        return None

    def ask(self, start: int) -> "Response":
        """The server's answer, from byte `start` on if it can."""
        import requests

        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if self.etag and not self.etag.startswith("W/"):
                headers["If-Range"] = self.etag
        get = partial(self.session.get, self.url, headers=headers, stream=True, timeout=_TIMEOUT)
        try:
            response = self.aside(get)
        except requests.RequestException as e:
            # Without a connection at the start there is none to go on with.
            raise (_ConnectionLost if start else SourceError)(reason(e)) from e
        if response.status_code in _BUSY:
            raise _ConnectionLost(f"{response.status_code} {response.reason}")
        if response.status_code not in (200, 206, 416):
            raise SourceError(f"{response.status_code} {response.reason}")
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise SourceError("a web page came instead of the file")
        return response

    def receive(self, part: Path, response: "Response | None") -> bool:
        """Write what comes; True when the file is complete."""
        import requests

        self.done = part.stat().st_size if response is None and part.exists() else 0
        if self.done and self.done == self.total:
            return True
        if response is None:
            response = self.ask(self.done)
        if self.done and not self.goes_on(response):
            self.done = 0
            if response.status_code != 200:
                response = self.ask(0)
        told = 0.0
        with part.open("ab" if self.done else "wb") as file:
            chunks = response.iter_content(_CHUNK)
            while True:
                try:
                    chunk: bytes = self.aside(partial(next, chunks, b""))
                except requests.RequestException as e:
                    raise _ConnectionLost(reason(e)) from e
                if not chunk:
                    break
                file.write(chunk)
                self.done += len(chunk)
                if self.done > self.furthest:
                    self.furthest, self.failures = self.done, 0
                if time.monotonic() - told > _TICK:
                    told = time.monotonic()
                    self.tell()
        return self.is_complete(part)

    def goes_on(self, response: "Response") -> bool:
        """Whether the answer begins where the partial file ends."""
        span = re.match(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        return (
            response.status_code == 206
            and span is not None
            and (int(span[1]), int(span[2])) == (self.done, self.total)
        )

    def is_complete(self, part: Path) -> bool:
        if self.total is not None and self.done > self.total:
            part.unlink()
            raise SourceError(f"more than its {self.total} bytes came")
        if self.total is not None and self.done < self.total:
            raise _ConnectionLost(f"the connection broke after {self.done} of {self.total} bytes")
        self.tell()
        return True


def _length(response: "Response") -> int | None:
    """Bytes of the whole file, if the server says so and compresses nothing."""
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() and "Content-Encoding" not in response.headers else None


def reason(error: Exception) -> str:
    """An error's cause in short; `requests` wraps it several times."""
    while error.__cause__ or error.__context__:
        inner = error.__cause__ or error.__context__
        if not isinstance(inner, Exception):
            break
        error = inner
    return str(error) or type(error).__name__
