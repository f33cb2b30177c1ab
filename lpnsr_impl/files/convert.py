"""Convert checkpoints to safetensors files with a header that describes them."""

from pathlib import Path

from torch import Tensor

from .checkpoints import load_model
from .weights import read_checkpoint, write_safetensors


def convert(source: Path, target: Path) -> dict[str, str]:
    """Convert a network's weights to safetensors without changing their precision.

    Wrapper dicts, key prefixes, weights of losses, and buffers that can be derived from the config
    are dropped.

    Returns:
        The header of the new file: `lpnsr.part`, `lpnsr.config`, `lpnsr.schedule`, `lpnsr.family`
        if it is known, the keys of a one-step student, and all entries of the source's header.

    Raises:
        FileNotFoundError: the source does not exist.
        FileExistsError: the target exists.
        ValueError: the target's suffix is not .safetensors.
        UnsupportedCheckpointError: the source is damaged or unsafe, or contains an unsupported
            network.
    """
    check_new(target)
    checkpoint = read_checkpoint(source)
    header = {**checkpoint.header, **load_model(checkpoint).header()}
    # Clone, because safetensors does not accept tensors that share memory.
    tensors = {key: t.detach().contiguous().clone() for key, t in checkpoint.tensors.items()}
    write_new(target, tensors, header)
    return header


def check_new(target: Path) -> None:
    """Check the path of a safetensors file to write.

    Raises:
        FileExistsError: the file exists.
        ValueError: its suffix is not .safetensors.
    """
    if target.suffix.lower() != ".safetensors":
        raise ValueError(f"{target} has the suffix {target.suffix!r}, expected .safetensors.")
    if target.exists():
        raise _exists(target)


def write_new(target: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """Write a safetensors file, but never replace a file, not even one created at the same time.

    Raises:
        FileExistsError: the file exists.
    """
    try:
        write_safetensors(target, tensors, header, replace=False)
    except FileExistsError as e:
        raise _exists(target) from e


def _exists(target: Path) -> FileExistsError:
    return FileExistsError(f"{target} exists already. Give another name, or move that file.")
