"""Creates node schemas. Newer features (advanced widgets, search aliases) are used where ComfyUI
supports them."""

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
"""Widgets that Nodes 2.0 hides under "advanced". The classic canvas shows all widgets."""


def schema(*, inputs: list[io.Input], search_aliases: list[str], **rest: Any) -> io.Schema:
    """Make the schema of a node.

    Args:
        inputs: inputs of the node. Those listed in `ADVANCED` are marked as advanced, which older
            front ends ignore.
        search_aliases: search terms for the node. Dropped for ComfyUI before 0.11.
        rest: other arguments of `io.Schema`.
    """
    for widget in inputs:
        if widget.id in ADVANCED:
            widget.extra_dict["advanced"] = True
    if "search_aliases" in {field.name for field in fields(io.Schema)}:
        rest["search_aliases"] = search_aliases
    return io.Schema(category="LPNSR", inputs=inputs, **rest)
