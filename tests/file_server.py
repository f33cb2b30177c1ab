"""A local HTTP server that imitates Hugging Face (at /hub) and GitHub (at /github), including
failures."""

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HUB = "/hub/mirpri/LPNSR/resolve/main/"
GITHUB = "/github/"
_CHUNK = 2**18


@dataclass
class File:
    """A file on the server, and the failures to imitate when it is requested."""

    content: bytes
    status: int = 200
    cuts: list[int] = field(default_factory=list)  # the next responses end after so many bytes
    stall_at: int | None = None  # stop sending at this byte, without closing the connection
    pause: float = 0.0  # seconds before each chunk
    announced_size: int | None = None  # size reported by /hub, if not the true one
    announced_sha256: str | None = None


@dataclass
class FileServer:
    """State of the server: its URL, files by path, and the paths requested so far."""

    url: str = ""
    files: dict[str, File] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)


@contextmanager
def serving() -> Iterator[FileServer]:
    """Run a server, without files at first, until the end of the block."""
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

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.state.requests.append(self.path)
        file = self.state.files.get(self.path.replace("/cdn/", "/hub/", 1))
        if file is None or file.status != 200:
            self.send_response(file.status if file else 404)
        elif self.path.startswith("/hub/"):
            self.redirect(file)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(file.content)))
        self.end_headers()
        if file and file.status == 200 and not self.path.startswith("/hub/"):
            self.send_body(file, file.content[: file.cuts.pop(0)] if file.cuts else file.content)

    def redirect(self, file: File):
        """Redirect to the CDN, with the file's metadata in the headers, as Hugging Face does."""
        sha256 = file.announced_sha256 or hashlib.sha256(file.content).hexdigest()
        size = len(file.content) if file.announced_size is None else file.announced_size
        # Redirect to another host name: huggingface_hub follows redirects within a host, and would
        # not read the metadata from these headers.
        cdn = self.state.url.replace("127.0.0.1", "localhost")
        self.send_response(302)
        self.send_header("Location", f"{cdn}{self.path.replace('/hub/', '/cdn/', 1)}")
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("X-Linked-Etag", f'"{sha256}"')
        self.send_header("X-Linked-Size", str(size))

    def send_body(self, file: File, body: bytes):
        for start in range(0, len(body), _CHUNK):
            if file.stall_at is not None and start >= file.stall_at:
                self.stopped.wait(30)
                break
            time.sleep(file.pause)
            try:
                self.wfile.write(body[start : start + _CHUNK])
            except ConnectionError:
                break  # the client has disconnected
