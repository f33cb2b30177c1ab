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
    """Return the function `malloc_trim` of glibc, or None if the C library has no such function."""
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

    Without this call, glibc keeps hundreds of megabytes in fragments that are too small for the
    next network.

    Args:
        device: device that the network ran on. If it is not the CPU, nothing is done.
    """
    trim = _malloc_trim()
    if trim and device.type == "cpu":
        trim(0)
