"""Folders of model files, both bundled and the user's."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

BUNDLED = Path(__file__).parents[1] / "weights"
"""Folder of the bundled networks."""

BUNDLED_UPSCALE_MODELS = Path(__file__).parents[1] / "upscale_models"
"""Folder of the bundled upscale model. ComfyUI lists it as a folder of upscale models."""

EXTENSIONS = {".safetensors", ".pth", ".pt", ".ckpt"}
"""Suffixes of model files."""


def weight_files(folders: Iterable[Path]) -> list[Path]:
    """List the model files in folders and their subfolders, sorted within each folder.

    Links are followed, but no folder is visited twice, and links to a parent folder or to the root
    of the file system are skipped.
    """
    seen: set[Path] = set()
    return [
        Path(parent) / name
        for folder in folders
        for parent, names in sorted(_walk(folder, seen))
        for name in sorted(names)
        if Path(name).suffix.lower() in EXTENSIONS
    ]


def _walk(folder: Path, seen: set[Path]) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder with the names of its files, and add its real path to `seen`."""
    root = Path(os.path.realpath(folder))
    for parent, folders, names in os.walk(folder, followlinks=True):
        here = Path(os.path.realpath(parent))
        if here in seen:
            folders.clear()
            continue
        seen.add(here)
        yield parent, names
        real = {name: Path(os.path.realpath(Path(parent, name))) for name in folders}
        folders[:] = [
            name
            for name, path in real.items()
            if not here.is_relative_to(path)
            and not root.is_relative_to(path)
            and path != Path(path.anchor)
        ]


def find_weights(name: str) -> Path:
    """Return the path of a file, given its path or the name of a bundled file.

    Raises:
        FileNotFoundError: there is no such file.
    """
    for path in (Path(name), BUNDLED / name, BUNDLED_UPSCALE_MODELS / name):
        if path.is_file():
            return path
    bundled = sorted(
        p.name for f in (BUNDLED, BUNDLED_UPSCALE_MODELS) for p in f.glob("*.safetensors")
    )
    raise FileNotFoundError(
        f"There is no file {name!r}. Give a path, or the name of a bundled file: "
        f"{', '.join(bundled)}."
    )
