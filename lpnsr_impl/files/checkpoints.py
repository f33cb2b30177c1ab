"""Load networks from checkpoints: detect the kind of network, derive its config, load it strictly.

Networks are built on the meta device, and receive their tensors only after all checks.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from ..config import (
    LPNSR_SCHEDULE,
    RELEASED_AUTOENCODER,
    RELEASED_DENOISER,
    RELEASED_NOISE_PREDICTOR,
    RESSHIFT_15,
    RSD,
    Family,
    ScheduleConfig,
    StudentConfig,
)
from ..models import Autoencoder, Denoiser, NoisePredictor, UNet
from ..models.layers import Operations
from .shapes import autoencoder_config, schedule_config, unet_config
from .students import expected_planes, student_header, student_of
from .weights import Checkpoint, Source, read_checkpoint

Network = TypeVar("Network", bound=nn.Module)

RELEASED_FAMILY = "released"
"""Family name of the published files. They have no header, and are recognised by their config."""


@dataclass(frozen=True)
class ModelDescriptor(Generic[Network]):
    """A network and its properties.

    Attributes:
        part: "autoencoder", "denoiser" or "noise_predictor".
        network: the network.
        family: name of the model family that the weights belong to, or None if unknown.
        schedule: noise schedule that a denoiser or noise predictor was trained with.
        student: config of a one-step student, or None for other networks.
    """

    part: str
    network: Network
    family: str | None = None
    schedule: ScheduleConfig = LPNSR_SCHEDULE
    student: StudentConfig | None = None

    def header(self) -> dict[str, str]:
        """Return the safetensors header from which these properties are restored on loading."""
        header = {"lpnsr.part": self.part}
        if isinstance(self.network, Autoencoder | UNet):
            header["lpnsr.config"] = json.dumps(asdict(self.network.config))
        if isinstance(self.network, UNet):
            header["lpnsr.schedule"] = json.dumps(asdict(self.schedule))
        if self.family:
            header["lpnsr.family"] = self.family
        return header | (student_header(self.student) if self.student else {})


@dataclass(frozen=True)
class Part(Generic[Network]):
    """A kind of network: autoencoder, denoiser or noise predictor.

    Attributes:
        name: name in checkpoint headers.
        title: name in messages, with an article.
        config: function that derives the network's config from a checkpoint.
        network: function that builds the network from a config and `Operations`.
        released: configs of the published files, which have no header.
    """

    name: str
    title: str
    config: Callable[[Checkpoint], Any]
    network: Callable[[Any, Operations], Network]
    released: tuple[Any, ...]


_RELEASED_RSD = replace(RELEASED_DENOISER, in_channels=6 + RSD.noise_planes)

AUTOENCODER = Part(
    "autoencoder", "an autoencoder", autoencoder_config, Autoencoder, (RELEASED_AUTOENCODER,)
)
DENOISER = Part("denoiser", "a denoiser", unet_config, Denoiser, (RELEASED_DENOISER, _RELEASED_RSD))
NOISE_PREDICTOR = Part(
    "noise_predictor", "a noise predictor", unet_config, NoisePredictor, (RELEASED_NOISE_PREDICTOR,)
)
PARTS: dict[str, Part[Any]] = {part.name: part for part in (AUTOENCODER, DENOISER, NOISE_PREDICTOR)}


def load_autoencoder(src: Source, *, operations: Operations = nn) -> Autoencoder:
    """Load a VQ-f4 autoencoder of any size.

    Args:
        src: path of a .safetensors or .pth file, a state dict, or a `Checkpoint`.
        operations: namespace of layer classes, see `lpnsr_impl.models.layers`.

    Returns:
        The network in fp32 and eval mode on the CPU, its parameters frozen.

    Raises:
        FileNotFoundError: the file does not exist.
        UnsupportedCheckpointError: the file is damaged, unsafe, or not a VQ-f4 autoencoder.
    """
    return load_model(src, AUTOENCODER, operations).network


def load_denoiser(src: Source, *, operations: Operations = nn) -> Denoiser:
    """Load a denoiser of any size. See `load_autoencoder`."""
    return load_model(src, DENOISER, operations).network


def load_noise_predictor(src: Source, *, operations: Operations = nn) -> NoisePredictor:
    """Load a noise predictor of any size. See `load_autoencoder`."""
    return load_model(src, NOISE_PREDICTOR, operations).network


def load_model(
    src: Source, part: Part[Network] | None = None, operations: Operations = nn
) -> ModelDescriptor[Network]:
    """Load a network with its family, schedule and student. See `load_autoencoder`.

    Args:
        src: path of a .safetensors or .pth file, a state dict, or a `Checkpoint`.
        part: the expected kind of network; None for any of the three.
        operations: namespace of layer classes.
    """
    checkpoint = read_checkpoint(src)
    found = describe(checkpoint, part.name if part else "")
    for known in [part] if part else PARTS.values():
        if found == known.title:
            return _load(known, checkpoint, operations)
    expected = part.title if part else "an autoencoder, a denoiser or a noise predictor"
    raise checkpoint.error(
        f"it looks like {found}, expected {expected} of the LPNSR family. Its first key is "
        f"{next(iter(checkpoint.tensors))}"
    )


def check_family(
    autoencoder: ModelDescriptor[Autoencoder],
    denoiser: ModelDescriptor[Denoiser],
    noise_predictor: ModelDescriptor[NoisePredictor] | None,
) -> Family:
    """Check that networks can be used together. Each family has its own latent space.

    Returns:
        The family of the networks.

    Raises:
        ValueError: families, latent channels or schedules differ, or a one-step student comes with
            a noise predictor.
    """
    if denoiser.student and noise_predictor is not None:
        raise ValueError(
            f"The denoiser is a one-step student ({denoiser.student.name}), which adds no noise "
            "between steps. Choose 'none' as the noise predictor."
        )
    models: list[ModelDescriptor[Any]] = [autoencoder, denoiser]
    channels = {
        "autoencoder": autoencoder.network.config.embed_channels,
        "denoiser": denoiser.network.config.out_channels,
    }
    if noise_predictor is not None:
        models.append(noise_predictor)
        channels["noise predictor"] = noise_predictor.network.config.out_channels // 2
    names = {model.family for model in models if model.family}
    if len(names) > 1:
        named = ", ".join(
            f"{type(m.network).__name__} is of {m.family or 'an unnamed family'!r}" for m in models
        )
        raise ValueError(
            f"These networks are of different families: {named}. Choose files of one family."
        )
    if len(set(channels.values())) > 1:
        raise ValueError(
            f"The latents of these networks have different numbers of channels: {channels}. Choose "
            "files of one family."
        )
    if noise_predictor is not None and noise_predictor.schedule != denoiser.schedule:
        raise ValueError(
            f"The denoiser was trained with {denoiser.schedule}, the noise predictor with "
            f"{noise_predictor.schedule}. Choose 'none' as the noise predictor."
        )
    return Family(names.pop() if names else "unnamed", denoiser.schedule, denoiser.student)


# Detection


def describe(checkpoint: Checkpoint, expected: str = "") -> str:
    """Describe what a checkpoint looks like.

    Args:
        checkpoint: any checkpoint.
        expected: name of the expected part, or "". It decides if the shapes fit two parts.

    Returns:
        The title of a part, or a description such as "an upscale model (ESRGAN)".
    """
    keys = checkpoint.tensors.keys()

    def has(*prefixes: str) -> bool:
        return any(key.startswith(prefixes) for key in keys)

    if (part := checkpoint.header.get("lpnsr.part")) in PARTS:
        return PARTS[part].title
    if has("model.diffusion_model.", "cond_stage_model.", "conditioner."):
        return "a Stable Diffusion checkpoint"
    if has("lora_") or any(".lora_" in key for key in keys):
        return "a LoRA"
    if has("encoder.conv_in."):
        if "quantize.embedding.weight" in keys:
            return AUTOENCODER.title
        return (
            "an autoencoder without a codebook (quantize.embedding.weight), e.g. a Stable "
            "Diffusion VAE"
        )
    if {"input_blocks.0.0.weight", "input_blocks.1.1.patch_embed.proj.weight"} <= keys:
        return _describe_unet(checkpoint, expected)
    # spandrel detects some architectures by their buffers.
    return _describe_foreign({**checkpoint.tensors, **checkpoint.structural})


def _describe_unet(checkpoint: Checkpoint, expected: str) -> str:
    """Distinguish denoisers and noise predictors by their numbers of channels.

    For latents with C channels, a denoiser has C + 3 input and C output channels, and a noise
    predictor has 2C + 3 input and 2C output channels. An even number of output channels fits both:
    6 is taken for a noise predictor with C = 3, and for other numbers `expected` decides.
    """
    inputs = checkpoint.shape("input_blocks.0.0.weight", 4)[1]
    outputs = checkpoint.shape("out.2.weight", 4)[0]
    if inputs == outputs + 3 + expected_planes(checkpoint):
        return DENOISER.title  # an RSD student with additional noise channels
    if inputs != outputs + 3:
        return (
            f"a Swin-U-Net with {inputs} input and {outputs} output channels, which is neither a "
            "denoiser nor a noise predictor"
        )
    if outputs == 6 or (outputs % 2 == 0 and expected == "noise_predictor"):
        return NOISE_PREDICTOR.title
    return DENOISER.title


def _describe_foreign(tensors: dict[str, Tensor]) -> str:
    # Imported only when needed, as files of LPNSR's own networks do not need spandrel.
    from spandrel import MAIN_REGISTRY, canonicalize_state_dict

    state_dict = canonicalize_state_dict(tensors)
    for support in MAIN_REGISTRY.architectures("detection"):
        if support.architecture.detect(state_dict):
            name = support.architecture.name
            return (
                f"an upscale model ({name}), which belongs in models/upscale_models, for the node "
                "Load Upscale Model"
            )
    return "something unknown"


# Loading


def _load(
    part: Part[Network], checkpoint: Checkpoint, operations: Operations
) -> ModelDescriptor[Network]:
    config = part.config(checkpoint)
    student = student_of(checkpoint) if part is DENOISER else None
    try:
        with torch.device("meta"):
            plain = part.network(config, nn)
            network = plain if operations is nn else part.network(config, operations)
    except (ValueError, ZeroDivisionError) as e:
        raise checkpoint.error(f"its tensor sizes do not fit {part.title} ({e})") from e
    # Use torch.nn layers for the check, since ComfyUI's layers may have no weights before loading.
    _check_tensors(checkpoint, plain)
    tensors = {
        key: tensor.detach().to("cpu", torch.float32, copy=checkpoint.borrowed)
        for key, tensor in checkpoint.tensors.items()
    }
    network.load_state_dict(tensors, strict=True, assign=True)
    family = checkpoint.header.get("lpnsr.family")
    if not family and config in part.released:
        family = RELEASED_FAMILY
    schedule = LPNSR_SCHEDULE
    if isinstance(network, UNet):
        schedule = schedule_config(checkpoint, RESSHIFT_15 if student else None)
    network.requires_grad_(False).eval()
    return ModelDescriptor(part.name, network, family, schedule, student)


def _check_tensors(checkpoint: Checkpoint, network: nn.Module) -> None:
    expected = {key: tensor.shape for key, tensor in network.state_dict().items()}
    missing = sorted(expected.keys() - checkpoint.tensors.keys())
    unexpected = sorted(checkpoint.tensors.keys() - expected.keys())
    if missing or unexpected:
        raise checkpoint.error(
            f"it is not a complete {type(network).__name__}: {_some(missing)} missing, "
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
                f"{key} has NaN or infinite values; the file is damaged, download it again"
            )


def _some(keys: list[str]) -> str:
    return (
        f"{len(keys)} keys ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        if keys
        else "none"
    )
