"""Smaller tiles where memory runs out."""

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

logger = logging.getLogger(__name__)

T = TypeVar("T")


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


def halving(run: Callable[[int], T], tile: int, smallest: int) -> T:
    """run(tile), again with half the tile each time memory runs out.

    Args:
        run: of the largest side of a tile.
        tile: to begin with, a multiple of `smallest`.
        smallest: tile, and what tiles are multiples of.

    Raises:
        MemoryError: the smallest tile does not fit either.
    """
    while True:
        try:
            return run(tile)
        except (RuntimeError, MemoryError) as e:
            if not is_out_of_memory(e):
                raise
        # Out here nothing holds the failed run's tensors any more.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if tile <= smallest:
            raise MemoryError(
                f"out of memory even with tiles of {tile}x{tile} pixels, the smallest for these "
                "models. Close other programs, or choose a lower precision"
            )
        tile = max(tile // 2 // smallest, 1) * smallest
        logger.warning("Out of memory; going on with tiles of %d.", tile)
