"""Interpolate between the weights of two trained versions of a network.

If one version was fine-tuned from the other, e.g. with a GAN loss, the sharpness and fidelity of
the result lie between those of the two versions (Wang et al. 2018, ESRGAN, Section 3.4).
"""

import json
from pathlib import Path

from .checkpoints import load_model
from .convert import check_new, write_new
from .weights import Checkpoint, read_checkpoint


def blend(first: Path, second: Path, share: float, target: Path) -> dict[str, str]:
    """Write the weights (1 - share) * first + share * second, in the precision of `second`.

    Args:
        first: file of a network.
        second: file of another trained version of the same network. Its header is kept.
        share: weight of `second`, 0 to 1.
        target: safetensors file to write.

    Returns:
        The header of the new file. Its `lpnsr.provenance` also has `share`, and the provenance of
        `first` under `blended_with`.

    Raises:
        FileNotFoundError: a file does not exist.
        FileExistsError: the target exists.
        ValueError: the configs of the networks differ, or the share is not in 0 to 1.
        UnsupportedCheckpointError: a file is damaged or unsafe, or contains an unsupported network.
    """
    if not 0 <= share <= 1:
        raise ValueError(
            f"share is {share}, expected 0 (only {first.name}) to 1 (only {second.name})."
        )
    check_new(target)
    one, other = read_checkpoint(first), read_checkpoint(second)
    network, other_network = _describe(one), _describe(other)
    if network != other_network:
        raise ValueError(
            f"{first.name} is {network}, {second.name} is {other_network}, expected two trained "
            "versions of the same network."
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


def _describe(checkpoint: Checkpoint) -> str:
    model = load_model(checkpoint)
    sizes = ", ".join(
        value for key, value in model.header().items() if key in ("lpnsr.config", "lpnsr.schedule")
    )
    return f"{model.part} of {model.family or 'no known family'} with {sizes}"
