"""Derive a network's config from the shapes and the header of its checkpoint."""

import json
import math
import re
from dataclasses import asdict, replace
from typing import Any, TypeVar

from ..config import (
    LPNSR_SCHEDULE,
    RESSHIFT_15,
    SCALE,
    AutoencoderConfig,
    ScheduleConfig,
    UNetConfig,
)
from ..method.schedule import Schedule
from .weights import Checkpoint

Config = TypeVar("Config", AutoencoderConfig, UNetConfig)

_ONLY_IN_HEADERS = {
    "trained_resolution": int,
    "window_size": int,
    "head_width": int,
    "norm_size": int,
    "largest_tile": int,
    "norm_groups": int,
    "attention": bool,
}
"""Config fields that a header may set, with their types. All other config fields in a header
must agree with the tensor shapes."""


def autoencoder_config(checkpoint: Checkpoint) -> AutoencoderConfig:
    """Derive the config of a VQ-f4 autoencoder.

    Raises:
        UnsupportedCheckpointError: the tensors or the header do not fit a VQ-f4 autoencoder.
    """
    codes = checkpoint.shape("quantize.embedding.weight", 2)
    num_levels = checkpoint.count(r"encoder\.down\.(\d+)\.")
    config = AutoencoderConfig(
        level_channels=tuple(
            checkpoint.shape(f"encoder.down.{level}.block.0.conv1.weight", 4)[0]
            for level in range(num_levels)
        ),
        num_res_blocks=checkpoint.count(r"encoder\.down\.0\.block\.(\d+)\."),
        image_channels=checkpoint.shape("encoder.conv_in.weight", 4)[1],
        latent_channels=checkpoint.shape("encoder.conv_out.weight", 4)[0],
        embed_channels=codes[1],
        num_codes=codes[0],
    )
    norm = checkpoint.tensors.get("encoder.norm_out.weight")
    if norm is not None and norm.ndim == 4:
        config = replace(config, norm_groups=0)
    if 2 ** (num_levels - 1) != SCALE:
        raise checkpoint.error(
            f"it has {num_levels} levels and compresses x{2 ** (num_levels - 1)}, expected x{SCALE}"
        )
    config = _with_header(checkpoint, config)
    groups = config.norm_groups
    if groups and any(channels % groups for channels in config.level_channels):
        raise checkpoint.error(
            f"lpnsr.config in its header has norm_groups = {groups}, but the channels of the "
            f"levels, {config.level_channels}, are not all multiples of it"
        )
    return config


def unet_config(checkpoint: Checkpoint) -> UNetConfig:
    """Derive the config of a denoiser or noise predictor.

    Raises:
        UnsupportedCheckpointError: the tensors or the header do not fit ResShift's U-Net.
    """
    num_res_blocks, level_channels = _down_path(checkpoint)
    first = checkpoint.shape("input_blocks.0.0.weight", 4)
    stage = "input_blocks.1.1"
    swin_width = checkpoint.shape(f"{stage}.patch_embed.proj.weight", 4)[0]
    window, heads = _window_and_heads(checkpoint, stage)
    config = UNetConfig(
        in_channels=first[1],
        out_channels=checkpoint.shape("out.2.weight", 4)[0],
        model_channels=first[0],
        level_channels=level_channels,
        num_res_blocks=num_res_blocks,
        swin_width=swin_width,
        swin_depth=checkpoint.count(re.escape(stage) + r"\.blocks\.(\d+)\."),
        mlp_width=checkpoint.shape(f"{stage}.blocks.0.mlp.fc1.weight", 4)[0],
        head_width=swin_width // heads,
        window_size=window,
    )
    config = replace(config, trained_resolution=_trained_resolution(checkpoint, config))
    return _with_header(checkpoint, config)


def schedule_config(checkpoint: Checkpoint, known: ScheduleConfig | None = None) -> ScheduleConfig:
    """Return the noise schedule of a denoiser or noise predictor.

    Returns:
        The first of these that exists: the schedule in the header (`lpnsr.schedule`); `known`;
        ResShift's 15-step schedule if the file name contains "_s15"; LPNSR's schedule.

    Raises:
        UnsupportedCheckpointError: the header's schedule is invalid.
    """
    if "lpnsr.schedule" not in checkpoint.header:
        fifteen = re.search(r"_s15(?!\d)", checkpoint.name)
        return known or (RESSHIFT_15 if fifteen else LPNSR_SCHEDULE)
    header = _header_object(checkpoint, "lpnsr.schedule")
    try:
        config = ScheduleConfig(**header)
        Schedule(**vars(config))
    except (TypeError, ValueError) as e:
        raise checkpoint.error(f"lpnsr.schedule in its header is invalid: {e}") from e
    return config


def _down_path(checkpoint: Checkpoint) -> tuple[int, tuple[int, ...]]:
    """Return the number of residual blocks per level, and the channels of each level."""
    levels: list[list[int]] = [[]]
    for i in range(1, checkpoint.count(r"input_blocks\.(\d+)\.")):
        if f"input_blocks.{i}.0.op.weight" in checkpoint.tensors:
            levels.append([])
        else:
            levels[-1].append(checkpoint.shape(f"input_blocks.{i}.0.out_layers.3.weight", 4)[0])
    if not all(levels) or len({len(level) for level in levels}) != 1:
        raise checkpoint.error(
            f"its levels have {[len(level) for level in levels]} residual blocks, expected the "
            "same number in each level"
        )
    return len(levels[0]), tuple(level[0] for level in levels)


def _window_and_heads(checkpoint: Checkpoint, stage: str) -> tuple[int, int]:
    """Return the window size w and the number of heads of a Swin stage.

    They are derived from the bias table, which has (2w-1)^2 rows and a column per head.
    """
    rows, heads = checkpoint.shape(f"{stage}.blocks.0.attn.relative_position_bias_table", 2)
    return (math.isqrt(rows) + 1) // 2, heads


def _trained_resolution(checkpoint: Checkpoint, config: UNetConfig) -> int:
    """Derive the trained resolution from a level whose windows are smaller than `window_size`, or
    from a stored shift mask. Without either, return the default."""
    for level in range(len(config.level_channels)):
        stage = f"input_blocks.{1 + level * (config.num_res_blocks + 1)}.1"
        window = _window_and_heads(checkpoint, stage)[0]
        if window < config.window_size:
            return window << level
        mask = checkpoint.structural.get(f"{stage}.blocks.1.attn_mask")
        if mask is not None and mask.ndim == 3:
            return math.isqrt(mask.shape[0]) * window << level
    return config.trained_resolution


def _with_header(checkpoint: Checkpoint, config: Config) -> Config:
    """Add the fields of the header's `lpnsr.config` to a config derived from tensor shapes.

    Raises:
        UnsupportedCheckpointError: a field is invalid, or does not agree with the tensor shapes.
    """
    from_shapes = json.loads(json.dumps(asdict(config)))
    header = _header_object(checkpoint, "lpnsr.config")
    fields = {name: header[name] for name in header.keys() & from_shapes.keys()}
    for name, value in fields.items():
        if value is None and from_shapes[name] is None:
            continue
        kind = _ONLY_IN_HEADERS.get(name) if from_shapes[name] != 0 else None
        if kind is None and value != from_shapes[name]:
            problem = f"but its weights have {from_shapes[name]!r}"
        elif kind is bool and type(value) is not bool:
            problem = "expected true or false"
        elif kind is int and (type(value) is not int or value < 1):
            problem = "expected 1 or more"
        else:
            continue
        raise checkpoint.error(f"lpnsr.config in its header has {name} = {value!r}, {problem}")
    return replace(config, **{n: value for n, value in fields.items() if n in _ONLY_IN_HEADERS})


def _header_object(checkpoint: Checkpoint, key: str) -> dict[str, Any]:
    """Parse the JSON object in a header entry. If the entry is missing, the result is empty."""
    text = checkpoint.header.get(key, "{}")
    try:
        header = json.loads(text)
    except json.JSONDecodeError as e:
        raise checkpoint.error(f"{key} in its header is not JSON ({e}): {text[:80]!r}") from e
    if not isinstance(header, dict):
        raise checkpoint.error(f"{key} in its header is {text[:80]!r}, expected a JSON object")
    return header
