"""Checkpoint files to canonical state dicts: read safely, unwrapped, structural buffers apart.
And back to safetensors files.
"""

import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .whole import written_whole

_WRAPPERS = ("state_dict", "params_ema", "params")
_PREFIXES = ("module.", "_orig_mod.")
_STRUCTURAL = ("relative_position_index", "attn_mask")


class UnsupportedCheckpointError(ValueError):
    """A checkpoint that can't be used: says which, what it looks like, and what was expected."""


@dataclass
class Checkpoint:
    """A canonical state dict with what its file says about it."""

    name: str
    tensors: dict[str, Tensor]
    structural: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    header: dict[str, str] = field(default_factory=dict[str, str])
    borrowed: bool = False  # the tensors belong to the caller, or are a view of the file

    def shape(self, key: str, ndim: int) -> torch.Size:
        if key not in self.tensors:
            raise self.error(f"the key {key} is missing")
        shape = self.tensors[key].shape
        if len(shape) != ndim or 0 in shape:
            raise self.error(
                f"{key} has shape {tuple(shape)}, expected {ndim} dimensions of 1 or more"
            )
        return shape

    def count(self, pattern: str) -> int:
        """How many values the one group of the regular expression `pattern` takes."""
        return len({m[1] for key in self.tensors if (m := re.match(pattern, key))})

    def error(self, problem: str) -> UnsupportedCheckpointError:
        return UnsupportedCheckpointError(f"{self.name}: {problem}.")


Source = str | os.PathLike[str] | Mapping[str, Any] | Checkpoint


def read_checkpoint(src: Source, name: str = "") -> Checkpoint:
    """Read a file, or take a state dict, without running anything in it.

    `name` is the one that a file is to have, where it has another as yet: it tells the format.

    Raises:
        FileNotFoundError: there is no such file.
        UnsupportedCheckpointError: it is damaged, unsafe, or holds no tensors.
    """
    if isinstance(src, Checkpoint):
        return src
    if isinstance(src, Mapping):
        return replace(_canonical("the state dict", src, {}), borrowed=True)
    path = Path(os.fspath(src))
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist. Check the path, or download the file first."
        )
    if not path.is_file():
        raise UnsupportedCheckpointError(
            f"{path} is a folder, expected a .safetensors or .pth file."
        )
    _refuse_text_and_empty(path)
    name = name or path.name
    if name.lower().endswith(".safetensors"):
        # Mapped into memory: a network that kept them would change, or crash, with its file.
        return replace(_canonical(name, *_read_safetensors(path)), borrowed=True)
    return _canonical(name, _read_pickle(path), {})


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], header: dict[str, str], *, replace: bool = True
) -> None:
    """Write a safetensors file, whole or not at all.

    Raises:
        FileExistsError: there is one already, and `replace` is off.
        OSError: it can't be written.
    """
    with written_whole(path, replace=replace) as file:
        file.write(save(dict(tensors), metadata=header))


def _refuse_text_and_empty(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    if not start:
        raise UnsupportedCheckpointError(
            f"{path.name} is empty. The download failed; get the file again."
        )
    if start.startswith((b"<!", b"<html", b"<?xml", b"version https://git-lfs")):
        raise UnsupportedCheckpointError(
            f"{path.name} is a text page ({start[:24].decode(errors='replace')!r}...), not "
            "weights. The download fetched a page instead of the file; get the file again."
        )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as e:
        raise UnsupportedCheckpointError(
            f"{path.name} is no readable safetensors file ({e}). It is damaged or cut short; get "
            "the file again."
        ) from e


def _read_pickle(path: Path) -> Mapping[str, Any]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        raise UnsupportedCheckpointError(
            f"{path.name} is no plain file of tensors: loading it would run code, or it is "
            "damaged. Refused; get the file from its authors, as .safetensors where they offer "
            f"it. ({first_line(e)})"
        ) from e
    except (
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
    ) as e:
        raise UnsupportedCheckpointError(
            f"{path.name} is no readable PyTorch file ({first_line(e)}). It is damaged or cut "
            "short; get the file again."
        ) from e
    if not isinstance(loaded, Mapping):
        raise UnsupportedCheckpointError(
            f"{path.name} holds a {type(loaded).__name__}, expected a state dict."
        )
    return loaded


def first_line(error: Exception) -> str:
    """Of its message, or its kind where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _canonical(name: str, loaded: Mapping[str, Any], header: dict[str, str]) -> Checkpoint:
    """Strip wrappers and prefixes, set structural buffers apart, refuse what is no tensor."""
    for wrapper in _WRAPPERS:
        if isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
            break
    checkpoint = Checkpoint(name, {}, header=header)
    for key, value in loaded.items():
        if not isinstance(value, Tensor):
            raise checkpoint.error(
                f"{key} is a {type(value).__name__}, expected a state dict of tensors"
            )
        key = _strip_prefixes(str(key))
        if key.startswith("loss."):
            continue
        if key in checkpoint.tensors:
            raise checkpoint.error(f"it has {key} twice, under different prefixes")
        if key.rsplit(".", 1)[-1] in _STRUCTURAL:
            checkpoint.structural[key] = value
        else:
            checkpoint.tensors[key] = value
    if not checkpoint.tensors:
        raise checkpoint.error("there are no weights in it")
    return checkpoint


def _strip_prefixes(key: str) -> str:
    while key.startswith(_PREFIXES):
        key = key.split(".", 1)[1]
    return key
