"""Main memory: what is free, and what networks on a CPU no longer need."""

import ctypes
import functools
import sys
from collections.abc import Callable

import psutil
import torch


def available() -> int:
    """Bytes that can be had, swap space included."""
    return psutil.virtual_memory().available + psutil.swap_memory().free


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    """glibc's, or None where the C library is another one."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    trim.argtypes = [ctypes.c_size_t]
    return trim


def give_back(device: torch.device) -> None:
    """Give freed memory back to the system, where the C library would keep it.

    After a network has run on a CPU that is hundreds of megabytes, in pieces that the next one
    can't use.

    Args:
        device: where the network has run; nothing is done for others than CPUs.
    """
    trim = _malloc_trim()
    if trim and device.type == "cpu":
        trim(0)
