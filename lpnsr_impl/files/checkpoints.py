"""Load networks from checkpoints: detect the part, derive its config from shapes, load strictly.

Networks are built on the meta device and get the tensors only after all checks.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from ..config import (
    RELEASED_AUTOENCODER,
    RELEASED_DENOISER,
    RELEASED_NOISE_PREDICTOR,
    RESSHIFT_15,
    RSD,
)
from ..models import Autoencoder, Denoiser, NoisePredictor, UNet
from ..models.layers import Operations
from .shapes import autoencoder_config, schedule_config, unet_config
from .students import expected_planes, student_of
from .weights import Checkpoint, Source, UnsupportedCheckpointError, read_checkpoint

Network = TypeVar("Network", bound=Autoencoder | UNet)

RELEASED_FAMILY = "released"
"""Family of checkpoints without a header that have the sizes of the published files."""


@dataclass(frozen=True)
class Part(Generic[Network]):
    """One of the three networks.

    Attributes:
        name: name in headers.
        title: name in messages.
        config: derives the network's config from a checkpoint.
        network: builds the network from a config and `Operations`.
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
    return _load_part(AUTOENCODER, src, operations)


def load_denoiser(src: Source, *, operations: Operations = nn) -> Denoiser:
    """Load a denoiser of any size. See `load_autoencoder`."""
    return _load_part(DENOISER, src, operations)


def load_noise_predictor(src: Source, *, operations: Operations = nn) -> NoisePredictor:
    """Load a noise predictor of any size. See `load_autoencoder`."""
    return _load_part(NOISE_PREDICTOR, src, operations)


def load_network(src: Source) -> tuple[str, Autoencoder | Denoiser | NoisePredictor]:
    """Detect which of the three networks a checkpoint has, and load it. See `load_autoencoder`.

    Returns:
        "autoencoder", "denoiser" or "noise_predictor", and the network.
    """
    checkpoint = read_checkpoint(src)
    found = describe(checkpoint)
    for part in PARTS.values():
        if found == part.title:
            return part.name, _load(part, checkpoint, nn)
    raise _unexpected(checkpoint, found, "an autoencoder, a denoiser or a noise predictor")


def check_family(
    autoencoder: Autoencoder, denoiser: Denoiser, noise_predictor: NoisePredictor | None
) -> str:
    """Check that networks belong together. Each family has a latent space of its own.

    Returns:
        The family's name, or "unnamed" if no network has one.

    Raises:
        ValueError: families, latent channels or schedules differ, or a one-step student comes with
            a noise predictor.
    """
    if denoiser.student and noise_predictor is not None:
        raise ValueError(
            f"The denoiser is a one-step student ({denoiser.student.name}), without noise between "
            "steps. Choose 'none' as the noise predictor."
        )
    networks: list[Autoencoder | UNet] = [autoencoder, denoiser]
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


# Detection


def _unexpected(checkpoint: Checkpoint, found: str, expected: str) -> UnsupportedCheckpointError:
    return checkpoint.error(
        f"it looks like {found}, expected {expected} of the LPNSR family. Its first key is "
        f"{next(iter(checkpoint.tensors))}"
    )


def describe(checkpoint: Checkpoint, expected: str = "") -> str:
    """Describe what a checkpoint looks like.

    Args:
        checkpoint: any checkpoint.
        expected: the part that the caller wants. It decides if the shapes fit two parts.

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
    """Tell denoisers, C + 3 channels to C, from noise predictors, 2C + 3 channels to 2C.

    An even number of outputs fits both. Six are a noise predictor for the usual three latent
    channels. For other numbers `expected` decides.
    """
    inputs = checkpoint.shape("input_blocks.0.0.weight", 4)[1]
    outputs = checkpoint.shape("out.2.weight", 4)[0]
    if inputs == outputs + 3 + expected_planes(checkpoint):
        return DENOISER.title  # a student that reads noise
    if inputs != outputs + 3:
        return (
            f"a Swin-U-Net with {inputs} input and {outputs} output channels, which is neither a "
            "denoiser nor a noise predictor"
        )
    if outputs == 6 or (outputs % 2 == 0 and expected == "noise_predictor"):
        return NOISE_PREDICTOR.title
    return DENOISER.title


def _describe_foreign(tensors: dict[str, Tensor]) -> str:
    # Imported here, since only foreign files need it.
    from spandrel import MAIN_REGISTRY, canonicalize_state_dict

    state_dict = canonicalize_state_dict(tensors)
    for support in MAIN_REGISTRY.architectures("detection"):
        if support.architecture.detect(state_dict):
            name = support.architecture.name
            return (
                f"an upscale model ({name}), which belongs in models/upscale_models and the Load "
                "Upscale Model node"
            )
    return "something unknown"


# Loading


def _load_part(part: Part[Network], src: Source, operations: Operations) -> Network:
    checkpoint = read_checkpoint(src)
    found = describe(checkpoint, part.name)
    if found != part.title:
        raise _unexpected(checkpoint, found, part.title)
    return _load(part, checkpoint, operations)


def _load(part: Part[Network], checkpoint: Checkpoint, operations: Operations) -> Network:
    config = part.config(checkpoint)
    student = student_of(checkpoint) if part is DENOISER else None
    try:
        with torch.device("meta"):
            plain = part.network(config, nn)
            network = plain if operations is nn else part.network(config, operations)
    except (ValueError, ZeroDivisionError) as e:
        raise checkpoint.error(f"its sizes fit no network of this kind ({e})") from e
    # Checked with torch.nn layers, since layers of a host may have no weights before loading.
    _check_tensors(checkpoint, plain)
    network.family = checkpoint.header.get("lpnsr.family")
    if not network.family and config in part.released:
        network.family = RELEASED_FAMILY
    if isinstance(network, UNet):
        network.schedule = schedule_config(checkpoint, RESSHIFT_15 if student else None)
    if isinstance(network, Denoiser):
        network.student = student
    tensors = {
        key: tensor.detach().to("cpu", torch.float32, copy=checkpoint.borrowed)
        for key, tensor in checkpoint.tensors.items()
    }
    network.load_state_dict(tensors, strict=True, assign=True)
    return network.requires_grad_(False).eval()


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
                f"{key} has NaN or infinite values; the file is damaged, get it again"
            )


def _some(keys: list[str]) -> str:
    return (
        f"{len(keys)} keys ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        if keys
        else "none"
    )
