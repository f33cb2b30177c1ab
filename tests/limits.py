"""Resource limits for this process."""

import ctypes
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def limit_file_size(size: int) -> Iterator[None]:
    """Limit the size of files that this process writes, in bytes. Writing more fails as on a full
    disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


@contextmanager
def limit_time(seconds: int) -> Iterator[None]:
    """Raise AssertionError in the main thread if the block takes longer than `seconds`. A
    TimeoutError would be lost: it is an OSError, and `os.walk` ignores these."""

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
def enforce_permissions() -> Iterator[None]:
    """Enforce file permissions even for root, by dropping the two capabilities that let this thread
    bypass them (see capset(2)) until the end of the block."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3 of the API, and 0 for this thread
    before = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable: low halves, then high
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
