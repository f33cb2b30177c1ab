"""Checkpoints to networks: recognise, derive every size from shapes, load strictly.

A network is built on the meta device and takes over the checked tensors at the end, so a file that
is refused leaves nothing behind.
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..config import (
    LPNSR_SCHEDULE,
    RELEASED_AUTOENCODER,
    RELEASED_DENOISER,
    RELEASED_NOISE_PREDICTOR,
    RESSHIFT_15,
    SCALE,
    AutoencoderConfig,
    ScheduleConfig,
    UNetConfig,
)
from ..method.schedule import Schedule
from ..models import Autoencoder, Denoiser, NoisePredictor, UNet
from ..models.layers import Operations
from .students import expected_planes, student_of
from .weights import Checkpoint, Source, UnsupportedCheckpointError, read_checkpoint

Network = TypeVar("Network", Autoencoder, Denoiser, NoisePredictor)

RELEASED_FAMILY = "released"
"""Family of checkpoints without a header whose sizes are the published ones."""

_HEADER_SIZES = ("trained_resolution", "window_size", "head_width", "norm_groups")
_HEADER_SWITCHES = ("attention",)
PARTS = {
    "autoencoder": "an autoencoder",
    "denoiser": "a denoiser",
    "noise_predictor": "a noise predictor",
}


def load_autoencoder(src: Source, *, operations: Operations = nn) -> Autoencoder:
    """Load a VQ-f4 autoencoder of any size.

    Args:
        src: path of a .safetensors or .pth file, a state dict, or what `read_checkpoint` gave.
        operations: namespace of layer classes, see `lpnsr_impl.models.layers`.

    Returns:
        The network in fp32 and eval mode on the CPU, its parameters frozen.

    Raises:
        FileNotFoundError: there is no such file.
        UnsupportedCheckpointError: the file is damaged, unsafe, or not an autoencoder of this kind.
    """
    checkpoint = read_checkpoint(src)
    _expect_part(checkpoint, "autoencoder")
    config = _autoencoder_config(checkpoint)
    return _build(
        checkpoint,
        lambda layers: Autoencoder(config, layers),
        operations,
        config == RELEASED_AUTOENCODER,
    )


def load_denoiser(src: Source, *, operations: Operations = nn) -> Denoiser:
    """Load a denoiser of any size. Otherwise as `load_autoencoder`."""
    checkpoint = read_checkpoint(src)
    _expect_part(checkpoint, "denoiser")
    config, student = _unet_config(checkpoint), student_of(checkpoint)
    schedule = _schedule(checkpoint, RESSHIFT_15 if student else None)
    released = replace(config, in_channels=RELEASED_DENOISER.in_channels) == RELEASED_DENOISER
    denoiser = _build(checkpoint, lambda layers: Denoiser(config, layers), operations, released)
    denoiser.schedule, denoiser.student = schedule, student
    return denoiser


def load_noise_predictor(src: Source, *, operations: Operations = nn) -> NoisePredictor:
    """Load a noise predictor of any size. Otherwise as `load_autoencoder`."""
    checkpoint = read_checkpoint(src)
    _expect_part(checkpoint, "noise_predictor")
    config, schedule = _unet_config(checkpoint), _schedule(checkpoint)
    predictor = _build(
        checkpoint,
        lambda layers: NoisePredictor(config, layers),
        operations,
        config == RELEASED_NOISE_PREDICTOR,
    )
    predictor.schedule = schedule
    return predictor


def load_network(src: Source) -> tuple[str, Autoencoder | Denoiser | NoisePredictor]:
    """Load a network of whichever part it is. Otherwise as `load_autoencoder`.

    Returns:
        "autoencoder", "denoiser" or "noise_predictor", and the network.
    """
    checkpoint = read_checkpoint(src)
    found = describe(checkpoint)
    for part, load in _LOADERS.items():
        if found == PARTS[part]:
            return part, load(checkpoint)
    raise _unexpected(checkpoint, found, "an autoencoder, a denoiser or a noise predictor")


_LOADERS = {
    "autoencoder": load_autoencoder,
    "denoiser": load_denoiser,
    "noise_predictor": load_noise_predictor,
}


def check_family(
    autoencoder: Autoencoder, denoiser: Denoiser, noise_predictor: NoisePredictor | None
) -> str:
    """Check that networks belong together, since each family has a latent space of its own.

    Returns:
        The family's name, or "unnamed" if no file tells.

    Raises:
        ValueError: the networks name different families, or their latents have different channels,
        or denoiser and noise predictor were trained with different schedules, or the denoiser is a
        one-step student and needs no predictor.
    """
    if denoiser.student and noise_predictor is not None:
        raise ValueError(
            f"The denoiser is a one-step student ({denoiser.student.name}), without noise between "
            "steps. Choose 'none' as the noise predictor."
        )
    networks: list[UNet | Autoencoder] = [autoencoder, denoiser]
    channels = {
        "autoencoder": autoencoder.config.embed_channels,
        "denoiser": denoiser.config.out_channels,
    }
    if noise_predictor is not None:
        networks.append(noise_predictor)
        channels["noise predictor"] = noise_predictor.config.out_channels // 2
    families = {network.family for network in networks if network.family}
    if len(families) > 1:
        named = ", ".join(
            f"{type(n).__name__} is of {n.family or 'an unnamed family'!r}" for n in networks
        )
        raise ValueError(
            f"These networks are of different families: {named}. Choose files of one family."
        )
    if len(set(channels.values())) > 1:
        raise ValueError(
            f"These networks have latents of different channels: {channels}. Choose files of one "
            "family."
        )
    if noise_predictor is not None and noise_predictor.schedule != denoiser.schedule:
        raise ValueError(
            f"The denoiser was trained with {denoiser.schedule}, the noise predictor with "
            f"{noise_predictor.schedule}. Choose 'none' as the noise predictor."
        )
    return families.pop() if families else "unnamed"


# Recognising


def _expect_part(checkpoint: Checkpoint, expected: str) -> None:
    found = describe(checkpoint, expected)
    if found != PARTS[expected]:
        raise _unexpected(checkpoint, found, PARTS[expected])


def _unexpected(checkpoint: Checkpoint, found: str, expected: str) -> UnsupportedCheckpointError:
    return checkpoint.error(
        f"it looks like {found}, expected {expected} of the LPNSR family. Its first key is "
        f"{next(iter(checkpoint.tensors))}"
    )


def describe(checkpoint: Checkpoint, expected: str = "") -> str:
    """What the checkpoint looks like, as "a denoiser" or "an upscale model (ESRGAN)".

    `expected`, the part that the caller wants, decides where its shapes fit two.
    """
    keys = checkpoint.tensors.keys()
    if (part := checkpoint.header.get("lpnsr.part")) in PARTS:
        return PARTS[part]
    if any(
        key.startswith(("model.diffusion_model.", "cond_stage_model.", "conditioner."))
        for key in keys
    ):
        return "a Stable Diffusion checkpoint"
    if any(".lora_" in key or key.startswith("lora_") for key in keys):
        return "a LoRA"
    if (
        any(key.startswith("encoder.conv_in.") for key in keys)
        and "quantize.embedding.weight" in keys
    ):
        return PARTS["autoencoder"]
    if any(key.startswith("encoder.conv_in.") for key in keys):
        return (
            "an autoencoder without a codebook (quantize.embedding.weight), e.g. a Stable "
            "Diffusion VAE"
        )
    if "input_blocks.0.0.weight" in keys and "input_blocks.1.1.patch_embed.proj.weight" in keys:
        return _describe_unet(checkpoint, expected)
    # Some architectures are known by their buffers.
    return _describe_foreign({**checkpoint.tensors, **checkpoint.structural})


def _describe_unet(checkpoint: Checkpoint, expected: str) -> str:
    """Denoisers read C + 3 channels and write C, predictors read 2C + 3 and write 2C.

    So an even number of outputs fits both. Six are a predictor for the family's three latent
    channels; of others the file's header tells, or else it is what the caller expects.
    """
    inputs = checkpoint.shape("input_blocks.0.0.weight", 4)[1]
    outputs = checkpoint.shape("out.2.weight", 4)[0]
    if inputs == outputs + 3 + expected_planes(checkpoint):
        return PARTS["denoiser"]  # a student that reads noise
    if inputs != outputs + 3:
        return (
            f"a Swin-U-Net of {inputs} channels in and {outputs} out, neither denoiser nor noise "
            "predictor"
        )
    if outputs == 6 or (outputs % 2 == 0 and expected == "noise_predictor"):
        return PARTS["noise_predictor"]
    return PARTS["denoiser"]


def _describe_foreign(tensors: dict[str, Tensor]) -> str:
    # Imported here, since only a wrong file needs it.
    from spandrel import MAIN_REGISTRY, canonicalize_state_dict

    state_dict = canonicalize_state_dict(tensors)
    for support in MAIN_REGISTRY.architectures("detection"):
        if support.architecture.detect(state_dict):
            name = support.architecture.name
            return (
                f"an upscale model ({name}), which belongs into models/upscale_models and the Load "
                "Upscale Model node"
            )
    return "something unknown"


# Deriving sizes


def _autoencoder_config(checkpoint: Checkpoint) -> AutoencoderConfig:
    num_levels = checkpoint.count(r"encoder\.down\.(\d+)\.")
    config = AutoencoderConfig(
        level_channels=tuple(
            checkpoint.shape(f"encoder.down.{level}.block.0.conv1.weight", 4)[0]
            for level in range(num_levels)
        ),
        num_res_blocks=checkpoint.count(r"encoder\.down\.0\.block\.(\d+)\."),
        image_channels=checkpoint.shape("encoder.conv_in.weight", 4)[1],
        latent_channels=checkpoint.shape("encoder.conv_out.weight", 4)[0],
        embed_channels=checkpoint.shape("quantize.embedding.weight", 2)[1],
        num_codes=checkpoint.shape("quantize.embedding.weight", 2)[0],
    )
    if 2 ** (num_levels - 1) != SCALE:
        raise checkpoint.error(
            f"it has {num_levels} levels and compresses x{2 ** (num_levels - 1)}, expected x{SCALE}"
        )
    config = replace(config, **_header_sizes(checkpoint, config))
    if any(channels % config.norm_groups for channels in config.level_channels):
        raise checkpoint.error(
            f"lpnsr.config in its header has norm_groups = {config.norm_groups}, which does not "
            f"divide its levels of {config.level_channels} channels"
        )
    return config


def _unet_config(checkpoint: Checkpoint) -> UNetConfig:
    res_blocks, level_channels = _down_path(checkpoint)
    stage = "input_blocks.1.1"
    table = f"{stage}.blocks.0.attn.relative_position_bias_table"
    swin_width = checkpoint.shape(f"{stage}.patch_embed.proj.weight", 4)[0]
    config = UNetConfig(
        in_channels=checkpoint.shape("input_blocks.0.0.weight", 4)[1],
        out_channels=checkpoint.shape("out.2.weight", 4)[0],
        model_channels=checkpoint.shape("input_blocks.0.0.weight", 4)[0],
        level_channels=level_channels,
        num_res_blocks=res_blocks,
        swin_width=swin_width,
        swin_depth=checkpoint.count(re.escape(stage) + r"\.blocks\.(\d+)\."),
        mlp_width=checkpoint.shape(f"{stage}.blocks.0.mlp.fc1.weight", 4)[0],
        head_width=swin_width // checkpoint.shape(table, 2)[1],
        window_size=_window(checkpoint.shape(table, 2)),
    )
    config = replace(config, trained_resolution=_trained_resolution(checkpoint, config))
    return replace(config, **_header_sizes(checkpoint, config))


def _down_path(checkpoint: Checkpoint) -> tuple[int, tuple[int, ...]]:
    """Residual blocks a level, and each level's channels, from the order of the input blocks."""
    levels: list[list[int]] = [[]]
    for i in range(1, checkpoint.count(r"input_blocks\.(\d+)\.")):
        if f"input_blocks.{i}.0.op.weight" in checkpoint.tensors:
            levels.append([])
        else:
            levels[-1].append(checkpoint.shape(f"input_blocks.{i}.0.out_layers.3.weight", 4)[0])
    if not all(levels) or len({len(level) for level in levels}) != 1:
        raise checkpoint.error(
            f"its levels have {[len(level) for level in levels]} residual blocks, expected equal "
            "numbers"
        )
    return len(levels[0]), tuple(level[0] for level in levels)


def _window(table: torch.Size) -> int:
    """Side w of the window whose bias table has (2w-1)^2 rows."""
    return (math.isqrt(table[0]) + 1) // 2


def _trained_resolution(checkpoint: Checkpoint, config: UNetConfig) -> int:
    """What smaller windows further down, or a stored shift mask, tell; else the released 64."""
    index = 1
    for level in range(len(config.level_channels)):
        prefix = f"input_blocks.{index}.1.blocks."
        window = _window(checkpoint.shape(f"{prefix}0.attn.relative_position_bias_table", 2))
        if window < config.window_size:
            return window << level
        mask = checkpoint.structural.get(f"{prefix}1.attn_mask")
        if mask is not None and mask.ndim == 3:
            return math.isqrt(mask.shape[0]) * window << level
        index += config.num_res_blocks + 1
    return config.trained_resolution


def _header_sizes(checkpoint: Checkpoint, config: UNetConfig | AutoencoderConfig) -> dict[str, Any]:
    """What `lpnsr.config` in the header says that no shape tells; what shapes tell must agree."""
    header = _header_object(checkpoint, "lpnsr.config")
    sizes: dict[str, Any] = {}
    derived = json.loads(json.dumps(asdict(config)))
    for name, value in header.items():
        if name in _HEADER_SWITCHES and name in derived:
            if type(value) is not bool:
                raise checkpoint.error(
                    f"lpnsr.config in its header has {name} = {value!r}, expected true or false"
                )
            sizes[name] = value
        elif name in _HEADER_SIZES and name in derived:
            if type(value) is not int or value < 1:
                raise checkpoint.error(
                    f"lpnsr.config in its header has {name} = {value!r}, expected 1 or more"
                )
            sizes[name] = value
        elif name in derived and value != derived[name]:
            raise checkpoint.error(
                f"lpnsr.config in its header has {name} = {value!r}, its weights {derived[name]!r}"
            )
    return sizes


def _schedule(checkpoint: Checkpoint, known: ScheduleConfig | None = None) -> ScheduleConfig:
    """What `lpnsr.schedule` in the header says, else what is known, else what the file's name says,
    else LPNSR's."""
    if "lpnsr.schedule" not in checkpoint.header:
        if known:
            return known
        fifteen = re.search(r"_s15(?!\d)", checkpoint.name)
        return RESSHIFT_15 if fifteen else LPNSR_SCHEDULE
    header = _header_object(checkpoint, "lpnsr.schedule")
    try:
        config = ScheduleConfig(**header)
        Schedule(**vars(config))
    except (TypeError, ValueError) as e:
        raise checkpoint.error(f"lpnsr.schedule in its header is no schedule: {e}") from e
    return config


def _header_object(checkpoint: Checkpoint, key: str) -> dict[str, Any]:
    """The JSON object under a key of the header, empty if there is none."""
    text = checkpoint.header.get(key, "{}")
    try:
        header = json.loads(text)
    except json.JSONDecodeError as e:
        raise checkpoint.error(f"{key} in its header is no JSON ({e}): {text[:80]!r}") from e
    if not isinstance(header, dict):
        raise checkpoint.error(f"{key} in its header is {text[:80]!r}, expected a JSON object")
    return header


# Loading


def _build(
    checkpoint: Checkpoint,
    make: Callable[[Operations], Network],
    operations: Operations,
    has_released_sizes: bool,
) -> Network:
    try:
        with torch.device("meta"):
            plain = make(nn)
            network = plain if operations is nn else make(operations)
    except (ValueError, ZeroDivisionError) as e:
        raise checkpoint.error(f"its sizes make no network of this family ({e})") from e
    # By plain layers, since those of a host may have no weights until they are loaded.
    _check_tensors(checkpoint, plain)
    tensors = {
        key: tensor.detach().to("cpu", torch.float32, copy=checkpoint.borrowed)
        for key, tensor in checkpoint.tensors.items()
    }
    network.load_state_dict(tensors, strict=True, assign=True)
    network.family = checkpoint.header.get("lpnsr.family") or (
        RELEASED_FAMILY if has_released_sizes else None
    )
    # Convolutions are faster so, on CPUs and GPUs.
    network.to(memory_format=torch.channels_last)
    return network.requires_grad_(False).eval()


def _check_tensors(checkpoint: Checkpoint, network: nn.Module) -> None:
    expected = {key: tensor.shape for key, tensor in network.state_dict().items()}
    missing = sorted(expected.keys() - checkpoint.tensors.keys())
    unexpected = sorted(checkpoint.tensors.keys() - expected.keys())
    if missing or unexpected:
        raise checkpoint.error(
            f"it is no complete {type(network).__name__}: {_some(missing)} missing, "
            f"{_some(unexpected)} unexpected"
        )
    for key, tensor in checkpoint.tensors.items():
        if tensor.shape != expected[key]:
            raise checkpoint.error(
                f"{key} has shape {tuple(tensor.shape)}, expected {tuple(expected[key])}"
            )
        if not tensor.is_floating_point():
            raise checkpoint.error(f"{key} is {tensor.dtype}, expected floating-point weights")
        if not tensor.float().isfinite().all():
            raise checkpoint.error(
                f"{key} has values that are no finite numbers; the file is damaged, get it again"
            )


def _some(keys: list[str]) -> str:
    return (
        f"{len(keys)} keys ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        if keys
        else "none"
    )
