"""Networks to safetensors files that load in the nodes, with their provenance in the header."""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

PACK = Path(__file__).parents[2]


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
        "lpnsr.family": family,
        "lpnsr.part": part,
        "lpnsr.provenance": json.dumps({**provenance, "commit": commit()}),
    }
    config = getattr(network, "config", None)
    if is_dataclass(config) and not isinstance(config, type):
        header["lpnsr.config"] = json.dumps(asdict(config))
    tensors = {
        key: tensor.detach().to("cpu", dtype).contiguous()
        for key, tensor in network.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part_file = path.with_name(path.name + ".part")
    part_file.write_bytes(save(tensors, metadata=header))
    part_file.replace(path)


def commit() -> str:
    """Commit of this pack, with "+" if there are changes on top; "unknown" outside of git."""
    try:
        if _git("rev-parse", "--show-prefix"):
            return "unknown"  # the pack lies inside another repository
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(PACK), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
