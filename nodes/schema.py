"""`io.Schema` with what only newer hosts and front ends know of."""

from dataclasses import fields
from typing import Any

from comfy_api.latest import io

ADVANCED = {
    "precision",
    "torch_compile",
    "kappa",
    "use_predictor",
    "predictor_t4",
    "predictor_t3",
    "predictor_t2",
    "predictor_mode",
    "tile_size",
    "overlap",
    "feather",
    "wrap",
    "lr_consistency",
}
"""Widgets that Nodes 2.0 show to those who ask for them. The classic canvas shows all."""


def schema(*, inputs: list[io.Input], search_aliases: list[str], **rest: Any) -> io.Schema:
    """A node's schema.

    Args:
        inputs: those that are `ADVANCED` are marked so; older front ends do not mind.
        search_aliases: words to find the node by. ComfyUI has them from 0.11 on.
        rest: all else of `io.Schema`.
    """
    for widget in inputs:
        if widget.id in ADVANCED:
            widget.extra_dict["advanced"] = True
    if "search_aliases" in {field.name for field in fields(io.Schema)}:
        rest["search_aliases"] = search_aliases
    return io.Schema(category="LPNSR", inputs=inputs, **rest)
