"""Waiting for conditions instead of times: nobody knows how busy the machine is."""

import time
from collections.abc import Callable
from typing import Any

PATIENCE = 60.0


def eventually(state: Callable[[], Any], expected: Any = True, patience: float = PATIENCE) -> None:
    """Wait until `state()` equals `expected`.

    Raises:
        AssertionError: it has not within `patience` seconds; says what it was at last.
    """
    end = time.monotonic() + patience
    while (last := state()) != expected:
        assert time.monotonic() < end, f"{last!r} after {patience} s, expected {expected!r}"
        time.sleep(0.05)
