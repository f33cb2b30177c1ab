"""Checkpoints to safetensors with a header that says what they are."""

import json
from dataclasses import asdict
from pathlib import Path

from torch import Tensor, nn

from ..models import Autoencoder, Denoiser, UNet
from .checkpoints import load_network
from .students import student_header
from .weights import read_checkpoint, write_safetensors


def convert(source: Path, target: Path) -> dict[str, str]:
    """Write a network's weights, in the precision they have, as safetensors.

    Wrappers, prefixes, losses and derived buffers are left out; what they tell is in the header.

    Returns:
        The header: `lpnsr.part`, `lpnsr.config`, `lpnsr.schedule`, `lpnsr.family` where it is
        known, what makes a student known under any name, and what the source's own header has.

    Raises:
        FileNotFoundError: there is no such source.
        FileExistsError: there is a target already.
        ValueError: the target is not named as a safetensors file.
        UnsupportedCheckpointError: the source is damaged, unsafe, or no network of this kind.
    """
    check_new(target)
    checkpoint = read_checkpoint(source)
    part, network = load_network(checkpoint)
    header = {**checkpoint.header, **network_header(network), "lpnsr.part": part}
    if network.family:
        header["lpnsr.family"] = network.family
    if isinstance(network, Denoiser) and network.student:
        header |= student_header(network.student)
    # Cloned, since safetensors refuses tensors that share memory.
    tensors = {key: t.detach().contiguous().clone() for key, t in checkpoint.tensors.items()}
    write_new(target, tensors, header)
    return header


def check_new(target: Path) -> None:
    """Check that a safetensors file can be written there, before the work for it.

    Raises:
        FileExistsError: there is one already.
        ValueError: it is not named as one.
    """
    if target.suffix.lower() != ".safetensors":
        raise ValueError(f"{target} is to be a safetensors file: give a name with .safetensors.")
    if target.exists():
        raise _there_already(target)


def write_new(target: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """Write a safetensors file, but never over another one, which may have appeared meanwhile.

    Raises:
        FileExistsError: there is one.
    """
    try:
        write_safetensors(target, tensors, header, replace=False)
    except FileExistsError as e:
        raise _there_already(target) from e


def network_header(network: nn.Module) -> dict[str, str]:
    """`lpnsr.config` and `lpnsr.schedule` of a network of the family; empty for another one."""
    header: dict[str, str] = {}
    if isinstance(network, Autoencoder | UNet):
        header["lpnsr.config"] = json.dumps(asdict(network.config))
    if isinstance(network, UNet):
        header["lpnsr.schedule"] = json.dumps(asdict(network.schedule))
    return header


def _there_already(target: Path) -> FileExistsError:
    return FileExistsError(f"{target} is there already. Give another name, or move it away.")
