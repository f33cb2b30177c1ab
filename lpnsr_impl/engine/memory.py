"""What the engine asks of those who look after networks and memory, and how the command line does
it; ComfyUI's way is in `nodes/host.py`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ..main_memory import available

N_co = TypeVar("N_co", bound=nn.Module, covariant=True)

USABLE = 0.7
"""Share of the free memory that a run plans with."""


class Managed(Protocol[N_co]):
    """A network in somebody's care.

    Attributes:
        network: its weights may be elsewhere until `Memory.load`.
        device: where its activations belong.
    """

    @property
    def network(self) -> N_co: ...

    @property
    def device(self) -> torch.device: ...


class Memory(Protocol):
    """Memory for activations, and for results."""

    @property
    def result_device(self) -> torch.device:
        """Where results go."""
        ...

    @property
    def result_dtype(self) -> torch.dtype:
        """Of results."""
        ...

    def room_for_results(self) -> int:
        """Free bytes where results go."""
        ...

    def budget(self, networks: Sequence[Managed[Any]]) -> float:
        """Bytes for activations beside these networks, if all others make room."""
        ...

    def spare(self, networks: Sequence[Managed[Any]]) -> float:
        """The same, if all others stay where they are."""
        ...

    def load(self, networks: Sequence[Managed[Any]], activations: float) -> None:
        """Make networks resident together, with room for so many bytes beside them."""
        ...

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether an allocation failed."""
        ...

    def empty_cache(self) -> None:
        """Give memory that is held for later back to the device."""
        ...


@dataclass(frozen=True)
class Resident(Generic[N_co]):
    """A network that is on its device and stays there."""

    network: N_co
    device: torch.device


class PlainMemory:
    """Memory where nobody else's networks are. Results go to main memory, in float32."""

    result_device = torch.device("cpu")
    result_dtype = torch.float32

    def room_for_results(self) -> int:
        """Free bytes of main memory."""
        return available()

    def budget(self, networks: Sequence[Managed[Any]]) -> float:
        """Free bytes of the networks' device, less a reserve."""
        device = networks[0].device
        if device.type != "cuda":
            return USABLE * available()
        free, _ = torch.cuda.mem_get_info(device)
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return USABLE * (free + held)

    spare = budget

    def load(self, networks: Sequence[Managed[Any]], activations: float) -> None:
        """They are there."""

    def is_out_of_memory(self, error: BaseException) -> bool:
        """See `is_out_of_memory`."""
        return is_out_of_memory(error)

    def empty_cache(self) -> None:
        """Give cached memory of GPUs back."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def in_results(memory: Memory, x: Tensor) -> Tensor:
    """A tensor as results are."""
    return x.to(memory.result_device, memory.result_dtype)


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
    "invalid buffer size",  # MPS, of more than Metal allows
)
_CUDA_ERROR_MEMORY_ALLOCATION = 2


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on any device."""
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    if not isinstance(error, RuntimeError):  # torch.AcceleratorError is one
        return False
    text = str(error).lower()
    return getattr(error, "error_code", None) == _CUDA_ERROR_MEMORY_ALLOCATION or any(
        message in text for message in _MESSAGES
    )
