"""Networks to safetensors files that load in the nodes, with their provenance in the header."""

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
    """Write weights and header, whole or not at all.

    Args:
        model: of the family, or an upscale model of spandrel.
        path: file to write; an older one is replaced.
        provenance: data, steps and what else should be known of the training.
        dtype: of the stored weights.
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
