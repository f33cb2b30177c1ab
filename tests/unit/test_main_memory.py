"""Available main memory."""

from types import SimpleNamespace

import psutil
import pytest

from lpnsr_impl.main_memory import available


def test_free_swap_space_is_no_memory_to_plan_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=5))
    monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(free=7))
    assert available() == 5
