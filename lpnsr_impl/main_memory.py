"""Main memory: how much is available, and how to return freed memory to the system."""

import ctypes
import functools
import sys
from collections.abc import Callable

import psutil
import torch


def available() -> int:
    """Return the available main memory in bytes, excluding swap space."""
    return psutil.virtual_memory().available


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    """Return `malloc_trim` of glibc, or None for other C libraries."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    trim.argtypes = [ctypes.c_size_t]
    return trim


def give_back(device: torch.device) -> None:
    """Return freed memory to the system after a network has run on the CPU.

    Otherwise glibc keeps hundreds of megabytes in fragments that are too small for the next
    network.

    Args:
        device: device of the network. Nothing is done unless it is the CPU.
    """
    trim = _malloc_trim()
    if trim and device.type == "cpu":
        trim(0)
