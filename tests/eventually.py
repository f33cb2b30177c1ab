"""Waiting for conditions instead of times: nobody knows how busy the machine is."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

PATIENCE = 300
"""Seconds after which a wait has failed: far more than a slow and busy machine needs."""

Result = TypeVar("Result")


def in_a_thread(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """`asyncio.run` in another thread, since Playwright keeps a loop running in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def eventually(state: Callable[[], Any], expected: Any = True, patience: float = PATIENCE) -> None:
    """Wait until `state()` equals `expected`.

    Raises:
        AssertionError: it has not within `patience` seconds; says what it was at last.
    """
    end = time.monotonic() + patience
    while (last := state()) != expected:
        assert time.monotonic() < end, f"{last!r} after {patience} s, expected {expected!r}"
        time.sleep(0.05)
