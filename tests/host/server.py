"""Start a real ComfyUI with this pack, and use it over HTTP."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import yaml

from tests.eventually import PATIENCE

from .install import FrontEnd, comfyui_path

PACK = Path(__file__).parents[2]


class PromptError(RuntimeError):
    """A prompt was refused, or it failed. `details` is what the server reported, or None."""

    def __init__(self, message: str, details: Any) -> None:
        super().__init__(message)
        self.details = details


@dataclass
class Server:
    """A running ComfyUI."""

    url: str
    base: Path
    process: subprocess.Popen[bytes]
    log: Path

    def get(self, path: str, **params: Any) -> Any:
        """Send a GET request, and return the JSON response."""
        answer = requests.get(self.url + path, params=params, timeout=PATIENCE)
        answer.raise_for_status()
        return answer.json()

    def post(self, path: str, data: Any) -> requests.Response:
        """Send JSON in a POST request."""
        return requests.post(self.url + path, json=data, timeout=PATIENCE)

    def upload(self, picture: Path) -> str:
        """Upload a picture to the input folder, and return its name there."""
        with picture.open("rb") as file:
            answer = requests.post(
                self.url + "/upload/image",
                files={"image": file},
                data={"overwrite": "true"},
                timeout=PATIENCE,
            )
        answer.raise_for_status()
        return answer.json()["name"]

    def queue(self, prompt: dict[str, Any], client_id: str | None = None) -> str:
        """Queue an API-format prompt and return its id.

        Raises:
            PromptError: the server refuses the prompt. The message has the errors of all nodes.
        """
        answer = self.post(
            "/prompt", {"prompt": prompt, "client_id": client_id or uuid.uuid4().hex}
        )
        body = answer.json()
        if answer.status_code != 200:
            errors = [
                error for node in body.get("node_errors", {}).values() for error in node["errors"]
            ]
            lines = [f"{error['message']}: {error['details']}" for error in errors] or [str(body)]
            raise PromptError("\n".join(lines), body)
        return body["prompt_id"]

    def wait(self, prompt_id: str, timeout: float = 6 * PATIENCE) -> dict[str, dict[str, Any]]:
        """Wait for a prompt and return the outputs of its nodes.

        Raises:
            PromptError: the prompt failed or was cancelled.
            TimeoutError: the prompt took more than `timeout` seconds.
        """
        end, pause = time.monotonic() + timeout, 0.02
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise PromptError(f"ComfyUI exited unexpectedly:\n{self.tail()}", None)
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry:
                return self._outputs(entry)
            time.sleep(pause)
            pause = min(1.2 * pause, 0.5)  # poll rarely, since requests slow the server down
        raise TimeoutError(f"The prompt {prompt_id} took more than {timeout} s.\n{self.tail()}")

    @staticmethod
    def _outputs(entry: dict[str, Any]) -> dict[str, dict[str, Any]]:
        for kind, message in entry["status"]["messages"]:
            if kind == "execution_error":
                raise PromptError(
                    f"{message['node_type']}: {message['exception_message']}", message
                )
            if kind == "execution_interrupted":
                raise PromptError("interrupted", message)
        return entry["outputs"]

    def run(
        self, prompt: dict[str, Any], timeout: float = 6 * PATIENCE
    ) -> dict[str, dict[str, Any]]:
        """Queue a prompt, and wait for its outputs."""
        return self.wait(self.queue(prompt), timeout)

    def images(self, outputs: dict[str, dict[str, Any]]) -> list[bytes]:
        """Download all images that a prompt saved, without previews."""
        found = [
            image
            for output in outputs.values()
            for image in output.get("images", [])
            if image["type"] == "output"
        ]
        return [
            requests.get(self.url + "/view", params=image, timeout=PATIENCE).content
            for image in found
        ]

    def tail(self, lines: int = 40) -> str:
        """Return the last lines of the server's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def free_port(port: int = 0) -> int:
    """Return a free TCP port of the loopback interface: the given one, or any if `port` is 0.

    Raises:
        OSError: the given port is in use.
    """
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("127.0.0.1", port))
        return s.getsockname()[1]


def prepare_base(base: Path, packs: dict[str, Path]) -> None:
    """Create the folders of a ComfyUI base directory, and link custom node packs into it.

    Args:
        base: base directory.
        packs: custom node packs, {name: folder}.
    """
    for folder in ("custom_nodes", "input", "output", "models", "user", "temp"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    for name, pack in packs.items():
        link = base / "custom_nodes" / name
        link.unlink(missing_ok=True)  # an old link may point to another checkout
        link.symlink_to(pack, target_is_directory=True)


@contextlib.contextmanager
def running(
    base: Path,
    *,
    port: int | None = None,
    model_folders: dict[str, str] | None = None,
    packs: dict[str, Path] | None = None,
    device: tuple[str, ...] = ("--cpu",),
    front_end: FrontEnd | None = None,
) -> Iterator[Server]:
    """Run a ComfyUI server, and stop it at the end.

    Args:
        base: base directory, for input, output, models and user files.
        port: TCP port, a free one by default.
        model_folders: {model type: folder}, given to the server as extra_model_paths.yaml.
        packs: more custom node packs, {name: folder}.
        device: command-line options of ComfyUI, for example to choose the device.
        front_end: front end to serve, by default the installed one.
    """
    all_packs = {"LPNSR": PACK, **(packs or {})}
    prepare_base(base, all_packs)
    port = free_port(port or 0)
    extra_paths = base / "extra_model_paths.yaml"
    extra_paths.write_text(yaml.safe_dump({"tests": model_folders} if model_folders else {}))
    log = base / "comfyui.log"
    options = {
        "--port": str(port),
        "--base-directory": str(base),
        "--database-url": "sqlite:///:memory:",
        "--extra-model-paths-config": str(extra_paths),
        **(front_end.options() if front_end else {}),
    }
    command = [
        sys.executable,
        "main.py",
        *device,
        *(word for pair in options.items() for word in pair),
    ]
    command += ["--disable-auto-launch", "--disable-api-nodes", "--disable-all-custom-nodes"]
    command += ["--whitelist-custom-nodes", *all_packs]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=comfyui_path(),
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    server = Server(f"http://127.0.0.1:{port}", base, process, log)
    try:
        _wait_until_up(server)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_up(server: Server) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if server.process.poll() is not None:
            raise RuntimeError(f"ComfyUI did not start:\n{server.tail()}")
        with contextlib.suppress(requests.ConnectionError):
            server.get("/system_stats")
            return
        time.sleep(0.2)
    raise TimeoutError(f"ComfyUI did not answer within {PATIENCE} s:\n{server.tail()}")


def load_api_workflow(name: str) -> dict[str, Any]:
    """Read a shipped workflow in API format, e.g. "LPNSR quick start"."""
    return json.loads((PACK / "workflows" / "api" / f"{name}.json").read_text())


def node_of_type(prompt: dict[str, Any], class_type: str) -> dict[str, Any]:
    """Return the only node of a class in an API-format prompt."""
    (node,) = (node for node in prompt.values() if node["class_type"] == class_type)
    return node
