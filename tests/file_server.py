"""A server of files on a real socket, with the bad habits of real ones: it stands for GitHub (at
/github) and for Hugging Face (at /hub)."""

import hashlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HUB = "/hub/mirpri/LPNSR/resolve/main/"
_ANY_HUB = "/hub/"
_CDN = "/cdn/"
GITHUB = "/github/"


@dataclass
class File:
    """What one path gives, and how."""

    content: bytes
    ranges: bool = True
    etag: bool = True
    content_type: str = "application/octet-stream"
    cuts: list[int] = field(default_factory=list)  # bytes of each next answer before it breaks
    statuses: list[int] = field(default_factory=list)  # of each next answer instead of the file
    stall_at: int | None = None  # byte after which nothing comes any more
    pause: float = 0.0  # seconds before each chunk
    length: int | None = None  # said, instead of the true one
    announced_sha256: str | None = None  # by the hub, instead of the true one
    announced_size: int | None = None


@dataclass
class FileServer:
    """Files by path, and the requests that came: (method, path, Range header)."""

    url: str = ""
    files: dict[str, File] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    def gets(self, end: str) -> list[str | None]:
        """Ranges of the GET requests for paths that end so, redirects aside."""
        return [
            span
            for method, path, span in self.requests
            if method == "GET" and path.endswith(end) and not path.startswith(_ANY_HUB)
        ]


@contextmanager
def serving() -> Iterator[FileServer]:
    """A running server, without files yet."""
    state = FileServer()
    stopped = threading.Event()
    handler = type("Handler", (_Handler,), {"state": state, "stopped": stopped})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        state.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield state
        stopped.set()
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    state: FileServer
    stopped: threading.Event
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.state.requests.append((self.command, self.path, self.headers.get("Range")))
        if self.path.startswith(_ANY_HUB):
            return self.redirect_to_cdn()
        path = self.path.replace(_CDN, _ANY_HUB, 1)
        file = self.state.files.get(path)
        if file is None:
            return self.answer(404)
        if file.statuses:
            return self.answer(file.statuses.pop(0))
        return self.send_file(file)

    def answer(self, status, headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def redirect_to_cdn(self):
        """As the hub does: what it knows of the file comes with the redirect."""
        file = self.state.files.get(self.path)
        if file is None:
            return self.answer(404, [("X-Error-Code", "EntryNotFound")])
        sha256 = file.announced_sha256 or hashlib.sha256(file.content).hexdigest()
        size = len(file.content) if file.announced_size is None else file.announced_size
        # By another host name, as the library looks no further than its own host.
        cdn = self.state.url.replace("127.0.0.1", "localhost")
        return self.answer(
            302,
            [
                ("Location", f"{cdn}{self.path.replace(_ANY_HUB, _CDN, 1)}"),
                ("X-Repo-Commit", "0" * 40),
                ("X-Linked-Etag", f'"{sha256}"'),
                ("X-Linked-Size", str(size)),
            ],
        )

    def send_file(self, file: File):
        etag = f'"{hashlib.md5(file.content).hexdigest()}"'
        start = 0
        span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range") in (None, etag)
        if span and file.ranges and same:
            start = int(span[1])
            if start >= len(file.content):
                return self.answer(416)
        body = file.content[start:]
        self.send_response(206 if start else 200)
        if start:
            end = len(file.content)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
        if file.etag:
            self.send_header("ETag", etag)
        self.send_header("Content-Type", file.content_type)
        self.send_header("Content-Length", str(len(body) if file.length is None else file.length))
        self.end_headers()
        return self.send_body(file, start, body[: file.cuts.pop(0)] if file.cuts else body)

    def send_body(self, file: File, start: int, body: bytes):
        chunk = 2**14
        for i in range(0, len(body), chunk):
            if file.stall_at is not None and start + i >= file.stall_at:
                self.stopped.wait(30)
                break
            time.sleep(file.pause)
            try:
                self.wfile.write(body[i : i + chunk])
            except ConnectionError:
                break  # the client has gone
        self.close_connection = True
