"""Weights between those of two trainings of a network.

Such a network is between both in sharpness and faithfulness, where one is the other after some more
training, with a GAN for instance (Wang et al. 2018, ESRGAN, section 3.4).
"""

import json
from pathlib import Path

from .checkpoints import load_network
from .convert import check_new, network_header, write_new
from .weights import Checkpoint, read_checkpoint


def blend(first: Path, second: Path, share: float, target: Path) -> dict[str, str]:
    """Write (1 - share) of the weights of `first` plus `share` of those of `second`, in the
    precision of the latter.

    Args:
        first: a network of the family.
        second: another of the same sizes; its header is kept.
        share: 0 to 1.
        target: safetensors file to write.

    Returns:
        The header; `lpnsr.provenance` has `share`, and under `blended_with` what `first` says of
        itself.

    Raises:
        FileNotFoundError: there is no such file.
        FileExistsError: there is a target already.
        ValueError: these two can't be blended, or the share is none.
        UnsupportedCheckpointError: a file is damaged, unsafe, or no network of this kind.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}, expected 0 (all of {first.name}) to 1.")
    check_new(target)
    one, other = read_checkpoint(first), read_checkpoint(second)
    told, told_other = (_what_it_is(checkpoint) for checkpoint in (one, other))
    if told != told_other:
        raise ValueError(
            f"{first.name} is {told}, {second.name} is {told_other}, expected two trainings of the "
            "same network."
        )
    provenance = {
        **json.loads(other.header.get("lpnsr.provenance", "{}")),
        "share": share,
        "blended_with": json.loads(one.header.get("lpnsr.provenance", "{}")),
    }
    header = {**other.header, "lpnsr.provenance": json.dumps(provenance)}
    tensors = {
        key: one.tensors[key].float().lerp(tensor.float(), share).to(tensor.dtype)
        for key, tensor in other.tensors.items()
    }
    write_new(target, tensors, header)
    return header


def _what_it_is(checkpoint: Checkpoint) -> str:
    part, network = load_network(checkpoint)
    sizes = ", ".join(network_header(network).values())
    return f"{part} of {network.family or 'no known family'} with {sizes}"
