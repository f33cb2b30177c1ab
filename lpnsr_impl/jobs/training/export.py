"""Networks to safetensors files that load in the nodes, with their provenance in the header."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...files.convert import network_header
from ...files.weights import write_safetensors
from ...version import commit


def export_network(
    network: nn.Module,
    path: Path,
    *,
    part: str,
    family: str,
    provenance: Mapping[str, Any],
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write weights and header, whole or not at all.

    Args:
        network: one of the family, or an upscale model of spandrel.
        path: file to write; an older one is replaced.
        part: "autoencoder", "denoiser", "noise_predictor" or "compact".
        family: networks of one family go together.
        provenance: data, steps and what else should be known of the training.
        dtype: of the stored weights.
    """
    header = {
        **network_header(network),
        "lpnsr.family": family,
        "lpnsr.part": part,
        "lpnsr.provenance": json.dumps({**provenance, "commit": commit()}),
    }
    tensors = {
        key: tensor.detach().to("cpu", dtype).contiguous()
        for key, tensor in network.state_dict().items()
    }
    write_safetensors(path, tensors, header)
