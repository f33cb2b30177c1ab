"""Exports networks as safetensors files that the nodes can load, with provenance in the header."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...files.checkpoints import ModelDescriptor
from ...files.weights import write_safetensors
from ...version import commit


def export_network(
    model: ModelDescriptor[Any],
    path: Path,
    *,
    provenance: Mapping[str, Any],
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write weights and header atomically.

    Args:
        model: network of a family, or a spandrel upscale model.
        path: file to write; an existing file is replaced.
        provenance: facts about the training, such as data and number of steps.
        dtype: dtype of the stored weights.
    """
    header = {
        **model.header(),
        "lpnsr.provenance": json.dumps({**provenance, "commit": commit()}),
    }
    tensors = {
        key: tensor.detach().to("cpu", dtype).contiguous()
        for key, tensor in model.network.state_dict().items()
    }
    write_safetensors(path, tensors, header)
