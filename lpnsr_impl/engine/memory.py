"""Memory management of networks, activations and results."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from ..config import SCALE
from ..main_memory import available
from ..models import Autoencoder, UNet

N_co = TypeVar("N_co", bound=nn.Module, covariant=True)

USABLE = 0.7
"""Fraction of the free memory that tiles may use."""

_UNET_LAYERS, _UNET_LAYERS_CPU = 24, 36
_ENCODER_LAYERS = 5.5
_DECODER_LAYERS, _DECODER_LAYERS_CPU = 6.5, 10
_DECODER_LAYERS_CPU_NO_NORMS = 18
"""Peak memory of activations, in units of one feature map of the network's first level, as measured
by `python -m tests.bench.memory`. CPUs keep some feature maps in two memory formats."""


def activation_bytes(
    network: nn.Module, h: int, w: int, device: torch.device, encoding: bool = False
) -> float:
    """Estimate the bytes for activations of one call of a network.

    Args:
        network: an autoencoder or a U-Net. For others, the bytes are unknown, and 0 is returned.
        h, w: size of the latent.
        device: device that the network runs on.
        encoding: whether an autoencoder encodes instead of decoding.
    """
    on_cpu = device.type == "cpu"
    if isinstance(network, UNet):
        layers = _UNET_LAYERS_CPU if on_cpu else _UNET_LAYERS
        return layers * network.config.model_channels * h * w * network.compute_dtype.itemsize
    if isinstance(network, Autoencoder):
        config, layers = network.config, _DECODER_LAYERS
        if encoding:
            layers = _ENCODER_LAYERS
        elif on_cpu:
            has_norms = config.norm_groups > 0
            layers = _DECODER_LAYERS_CPU if has_norms else _DECODER_LAYERS_CPU_NO_NORMS
        values = config.level_channels[0] * SCALE * h * SCALE * w
        return layers * values * network.compute_dtype.itemsize
    return 0.0


@dataclass(frozen=True)
class Managed(Generic[N_co]):
    """A network that a `Memory` loads and offloads.

    Attributes:
        network: the network; its weights may be offloaded.
        device: device that the network runs on.
    """

    network: N_co
    device: torch.device


class Memory:
    """Memory of networks that stay on their device. Results are float32 tensors in main memory.

    The subclass `nodes.host.Memory` uses ComfyUI's model management.
    """

    @property
    def result_device(self) -> torch.device:
        """Device of results."""
        return torch.device("cpu")

    @property
    def result_dtype(self) -> torch.dtype:
        """Dtype of results."""
        return torch.float32

    def free_for_results(self) -> int:
        """Return the free bytes on the device of results."""
        return available()

    def available(self, networks: Sequence[Managed[Any]]) -> float:
        """Return the bytes for activations that remain when these networks are loaded and all other
        models are evicted."""
        return self.free(networks)

    def free(self, networks: Sequence[Managed[Any]]) -> float:
        """Return the bytes for activations that remain when these networks are loaded and no other
        model is evicted."""
        device = networks[0].device
        if device.type != "cuda":
            return USABLE * available()
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return USABLE * (free + cached)

    def load(self, networks: Sequence[Managed[Any]], activations: float) -> None:
        """Load the networks, and leave this many bytes free for activations."""

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Return whether the error is a failed allocation."""
        return is_out_of_memory(error)

    def empty_cache(self) -> None:
        """Return cached memory to the device."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


_MESSAGES = (
    "out of memory",  # CUDA, HIP, XPU, MPS
    "can't allocate memory",  # CPUs on Linux and macOS
    "not enough memory",  # CPUs on Windows
    "bad_alloc",  # C++
    "bad allocation",  # C++ on Windows
    "_alloc_failed",  # cuBLAS, cuDNN, cuSOLVER
    "out_of_device_memory",  # Level Zero, Vulkan
    "out_of_host_memory",
    "not enough gpu video memory",  # DirectML
    "invalid buffer size",  # MPS, for buffers larger than Metal allows
)
_ONEDNN_MESSAGES = ("could not create a primitive", "could not execute a primitive")
"""Complete messages of oneDNN on CPUs. Its messages for other errors begin with the same words."""

_CUDA_ERROR_MEMORY_ALLOCATION = 2


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the error is a failed allocation on any device."""
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    if not isinstance(error, RuntimeError):  # torch.AcceleratorError is one
        return False
    if getattr(error, "error_code", None) == _CUDA_ERROR_MEMORY_ALLOCATION:
        return True
    text = str(error).lower()
    return text in _ONEDNN_MESSAGES or any(message in text for message in _MESSAGES)
