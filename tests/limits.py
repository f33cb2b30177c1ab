"""Limits on this process, to see what happens at them."""

import ctypes
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file may grow larger: writing fails in the middle, as on a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


@contextmanager
def seconds_at_most(seconds: int) -> Iterator[None]:
    """Raises AssertionError in the main thread once it took longer (TimeoutError is an OSError,
    which `os.walk` leaves out)."""

    def stop(*_: object) -> None:
        raise AssertionError(f"took more than {seconds} s")

    handler = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)


@contextmanager
def permissions_that_bind_root() -> Iterator[None]:
    """Files and folders can't be read or written against their mode, even by root: for a while,
    this thread gives up those two of root's capabilities that set modes aside, see capset(2)."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this thread
    before = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable, of 32 each, twice
    _check(libc.capget(header, before))
    fewer = type(before)(*before)
    fewer[0] &= ~(1 << 1 | 1 << 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    _check(libc.capset(header, fewer))
    try:
        yield
    finally:
        _check(libc.capset(header, before))


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
