"""Where weights are: those that come with the pack, and those of a user."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

BUNDLED = Path(__file__).parents[1] / "weights"
"""Networks of the lite family."""

BUNDLED_UPSCALE_MODELS = Path(__file__).parents[1] / "upscale_models"
"""Start of PreSet-B for the lite family; a folder of its own, as ComfyUI lists it elsewhere."""

EXTENSIONS = {".safetensors", ".pth", ".pt", ".ckpt"}
"""Of files with weights."""


def weight_files(folders: Iterable[Path]) -> list[Path]:
    """All files with weights in folders and below them, sorted in each; links are followed, but to
    no folder twice, nor to a whole disk or a folder that holds the link or where we began."""
    seen: set[Path] = set()
    return [
        Path(parent) / name
        for folder in folders
        for parent, names in sorted(_walk(folder, seen))
        for name in sorted(names)
        if Path(name).suffix.lower() in EXTENSIONS
    ]


def _walk(folder: Path, seen: set[Path]) -> Iterator[tuple[str, list[str]]]:
    """Folders and the names of their files. `seen` grows by the folders' real paths."""
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
    """Path of a file that is named by its path, or by its name among the bundled ones.

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
        f"There is no file {name!r}: give its path, or the name of a bundled one: "
        f"{', '.join(bundled)}."
    )
