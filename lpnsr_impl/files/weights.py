"""Read checkpoint files safely into canonical state dicts, and write safetensors files."""

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
    """A checkpoint can't be used. The message says what it looks like and what was expected."""


@dataclass
class Checkpoint:
    """A state dict without wrappers and key prefixes, and its header.

    Attributes:
        name: name of the file, for messages.
        tensors: weights.
        structural: buffers that can be derived from the config, e.g. attention masks.
        header: metadata of a safetensors file.
        borrowed: whether the tensors must be copied, because they belong to the caller or are
            memory-mapped.
    """

    name: str
    tensors: dict[str, Tensor]
    structural: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    header: dict[str, str] = field(default_factory=dict[str, str])
    borrowed: bool = False

    def shape(self, key: str, ndim: int) -> torch.Size:
        """Return a tensor's shape.

        Raises:
            UnsupportedCheckpointError: the tensor is missing or empty, or does not have `ndim`
                dimensions.
        """
        if key not in self.tensors:
            raise self.error(f"the key {key} is missing")
        shape = self.tensors[key].shape
        if len(shape) != ndim or 0 in shape:
            raise self.error(
                f"{key} has shape {tuple(shape)}, expected {ndim} dimensions, none of size 0"
            )
        return shape

    def count(self, pattern: str) -> int:
        """Count the distinct strings that the group in the regex `pattern` matches in the keys."""
        return len({m[1] for key in self.tensors if (m := re.match(pattern, key))})

    def error(self, problem: str) -> UnsupportedCheckpointError:
        """Create an error that names the file."""
        return UnsupportedCheckpointError(f"{self.name}: {problem}.")


Source = str | os.PathLike[str] | Mapping[str, Any] | Checkpoint


def read_checkpoint(src: Source, name: str = "") -> Checkpoint:
    """Read a file or a state dict. No code in the file is executed.

    Args:
        src: path, state dict, or a `Checkpoint`, which is returned unchanged.
        name: final name of a file whose name is temporary. Its suffix determines the format.

    Raises:
        FileNotFoundError: the file does not exist.
        UnsupportedCheckpointError: the file is damaged or unsafe, or contains no tensors.
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
    name = name or path.name
    _refuse_text_and_empty(path, name)
    if name.lower().endswith(".safetensors"):
        # These tensors are memory-mapped, so they would change if the file changed.
        return replace(_canonical(name, *_read_safetensors(path, name)), borrowed=True)
    return _canonical(name, _read_pickle(path, name), {})


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], header: dict[str, str], *, replace: bool = True
) -> None:
    """Write a safetensors file atomically.

    Raises:
        FileExistsError: the file exists and `replace` is False.
        OSError: the file can't be written.
    """
    with written_whole(path, replace=replace) as file:
        file.write(save(dict(tensors), metadata=header))


def _refuse_text_and_empty(path: Path, name: str) -> None:
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    if not start:
        raise UnsupportedCheckpointError(
            f"{name} is empty. The download failed; get the file again."
        )
    if start.startswith((b"<!", b"<html", b"<?xml", b"version https://git-lfs")):
        raise UnsupportedCheckpointError(
            f"{name} is a text page ({start[:24].decode(errors='replace')!r}...) instead of "
            "weights. The download saved a page instead of the file; get the file again."
        )


def _read_safetensors(path: Path, name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as e:
        raise UnsupportedCheckpointError(
            f"{name} is not a readable safetensors file ({e}). It is damaged or cut short; get "
            "the file again."
        ) from e


def _read_pickle(path: Path, name: str) -> Mapping[str, Any]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        raise UnsupportedCheckpointError(
            f"{name} is not a plain file of tensors: loading it would run code, or it is "
            "damaged. Get the file from its authors, as .safetensors if they offer it. "
            f"({first_line(e)})"
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
            f"{name} is not a readable PyTorch file ({first_line(e)}). It is damaged or cut "
            "short; get the file again."
        ) from e
    if not isinstance(loaded, Mapping):
        raise UnsupportedCheckpointError(
            f"{name} contains a {type(loaded).__name__}, expected a state dict."
        )
    return loaded


def first_line(error: Exception) -> str:
    """Return the first line of the error's message, or its type if the message is empty."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _canonical(name: str, loaded: Mapping[str, Any], header: dict[str, str]) -> Checkpoint:
    """Remove wrapper dicts and key prefixes, and separate structural buffers from weights."""
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
        raise checkpoint.error("it contains no weights")
    return checkpoint


def _strip_prefixes(key: str) -> str:
    while key.startswith(_PREFIXES):
        key = key.split(".", 1)[1]
    return key
