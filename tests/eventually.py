"""Wait for conditions instead of fixed times, since the machine may be slow or busy."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

PATIENCE = 300
"""Timeout in seconds, far more than a slow and busy machine needs."""

Result = TypeVar("Result")


def run_in_thread(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine in another thread, since Playwright runs an event loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def eventually(state: Callable[[], Any], expected: Any = True, patience: float = PATIENCE) -> None:
    """Wait until `state()` equals `expected`.

    Raises:
        AssertionError: `state()` still differs after `patience` seconds. The message contains its
            last value.
    """
    end = time.monotonic() + patience
    while (last := state()) != expected:
        assert time.monotonic() < end, f"{last!r} after {patience} s, expected {expected!r}"
        time.sleep(0.05)
