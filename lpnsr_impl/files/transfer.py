"""One file over HTTP: gone on with after cuts and in later runs, and stopped at any moment.

requests and urllib3 fetch it, on a thread of its own, since a stalled connection can't be
interrupted. The caller's thread asks `watch` whether to go on. (pooch resumes nothing, and
huggingface_hub's `http_get` neither compares contents nor can be stopped.)
"""

import hashlib
import re
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from requests import Response, Session

Watch = Callable[[int, int | None], None]
"""Told, several times a second, the bytes so far and in all (None: unknown). It raises to stop."""

_TICK = 0.2  # seconds between two calls of `watch`
_TIMEOUT = (10, 20)  # seconds to connect, and without a byte
_CHUNK = 2**16
_MOST_FAILURES = 5  # in a row, without getting further
_BUSY = (408, 425, 429, 500, 502, 503, 504)

T = TypeVar("T")


class SourceError(Exception):
    """An address that does not give the file; the next one may."""


class _StoppedError(Exception):
    """Nobody waits for the file any more."""


class _CutError(Exception):
    """The connection broke; a next one may go on."""


def aside(work: Callable[[], T], tick: Callable[[], None]) -> T:
    """The result of blocking `work`, while `tick` is called several times a second and may raise.

    Then the thread is left to what it may be stuck in.
    """
    threads = ThreadPoolExecutor(1, "lpnsr-download")
    future = threads.submit(work)
    threads.shutdown(wait=False)
    while not wait([future], _TICK).done:
        tick()
    return future.result()


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
    transfer = _Transfer(url, size, sha256)
    try:
        part = aside(lambda: transfer.run(target), lambda: watch(transfer.done, transfer.total))
    finally:
        transfer.stop()
    watch(transfer.done, transfer.total)
    return part


class _Transfer:
    def __init__(self, url: str, size: int | None, sha256: str | None) -> None:
        self.url, self.total, self.sha256 = url, size, sha256
        self.done = 0
        self.etag: str | None = None
        self.stopped, self.writing = threading.Event(), threading.Lock()

    def stop(self) -> None:
        """After this nothing is written."""
        with self.writing:
            self.stopped.set()

    def run(self, target: Path) -> Path:
        from requests import RequestException

        with closing(_session()) as session:
            response: Response | None = self.first(session)
            part = self.part_file(target)
            self.done = part.stat().st_size if part.exists() else 0
            self.require_space(part)
            part.touch()
            if self.done:
                response.close()
                response = None  # a request for the rest comes in its place
            failures, furthest = 0, self.done
            while self.done != self.total:
                try:
                    self.receive(response or self.rest(session), part)
                    break
                except (RequestException, _CutError) as e:
                    failures = 1 if self.done > furthest else failures + 1
                    furthest = max(furthest, self.done)
                    if failures == _MOST_FAILURES:
                        kept = f"{furthest / 1e6:.1f} MB are kept for the next run"
                        raise SourceError(f"{reason(e)}; {kept}") from e
                response = None
                self.stopped.wait(2 ** (failures - 2))
        return part

    def first(self, session: "Session") -> "Response":
        """The server's first answer, which tells what it has."""
        from requests import RequestException

        try:
            response = self.ask(session)
        except RequestException as e:
            raise SourceError(reason(e)) from e
        length = response.headers.get("Content-Length", "")
        if length.isdigit() and "Content-Encoding" not in response.headers:
            if self.total not in (None, int(length)):
                raise SourceError(f"it has {length} bytes, expected {self.total}")
            self.total = int(length)
        self.etag = response.headers.get("ETag")
        return response

    def rest(self, session: "Session") -> "Response":
        """The server's answer from where the partial file ends, or else from the start."""
        response = self.ask(session)
        span = re.match(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        goes_on = span and (int(span[1]), int(span[2])) == (self.done, self.total)
        if self.done and not (response.status_code == 206 and goes_on):
            self.done = 0
            if response.status_code != 200:
                response = self.ask(session)
        return response

    def ask(self, session: "Session") -> "Response":
        headers = {"Accept-Encoding": "identity"}
        if self.done:
            headers["Range"] = f"bytes={self.done}-"
            if self.etag and not self.etag.startswith("W/"):
                headers["If-Range"] = self.etag
        if self.stopped.is_set():
            raise _StoppedError
        response = session.get(self.url, headers=headers, stream=True, timeout=_TIMEOUT)
        if response.status_code not in (200, 206, 416):
            raise SourceError(f"{response.status_code} {response.reason}")
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise SourceError("a web page came instead of the file")
        return response

    def part_file(self, target: Path) -> Path:
        """Named by its content, so that no other is gone on with."""
        content = self.sha256 or f"{self.etag or self.url} {self.total}"
        tag = hashlib.sha256(content.encode()).hexdigest()[:8]
        part = target.with_name(f"{target.name}.{tag}.part")
        if self.total is None:
            part.unlink(missing_ok=True)  # without a size nobody knows what is missing of it
        return part

    def require_space(self, part: Path) -> None:
        needed = (self.total or 0) - self.done
        free = shutil.disk_usage(part.parent).free
        if needed > free:
            raise OSError(
                f"{needed / 1e6:.1f} MB are needed in {part.parent}, and {free / 1e6:.1f} MB are "
                "free. Make room and run this again"
            )

    def receive(self, response: "Response", part: Path) -> None:
        with part.open("ab" if self.done else "wb") as file:
            for chunk in response.iter_content(_CHUNK):
                with self.writing:
                    if self.stopped.is_set():
                        raise _StoppedError
                    file.write(chunk)
                    file.flush()
                self.done += len(chunk)
        if self.total is not None and self.done > self.total:
            part.unlink()
            raise SourceError(f"more than its {self.total} bytes came")
        if self.total is not None and self.done < self.total:
            raise _CutError(f"the connection broke after {self.done} of {self.total} bytes")


def _session() -> "Session":
    """Asks busy servers again; a connection that breaks is for `run`."""
    from requests import Session
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    again = Retry(
        connect=0, read=0, status=_MOST_FAILURES - 1, status_forcelist=_BUSY, backoff_factor=0.5,
        raise_on_status=False, respect_retry_after_header=False,
    )  # fmt: skip
    session = Session()
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(max_retries=again))
    return session


def reason(error: Exception) -> str:
    """An error's cause in short; `requests` wraps it several times."""
    while isinstance(inner := error.__cause__ or error.__context__, Exception):
        error = inner
    return str(error) or type(error).__name__
