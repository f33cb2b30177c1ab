"""Order of the tests, and their distribution to the workers of pytest-xdist (`pytest -n 2`)."""

from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

from tests.host.tested import run_of


@pytest.hookimpl(trylast=True)  # run after pytest has grouped tests by their fixtures
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move browser tests to the end, since they take longest, sorted by front end and renderer."""
    items.sort(key=lambda item: run_of(item.nodeid))


class _ByServer(LoadFileScheduling):
    """Sends tests that share a ComfyUI server to the same worker: browser tests with the same front
    end, and otherwise the tests of a file."""

    def _split_scope(self, nodeid: str) -> str:
        front_end, _ = run_of(nodeid)
        return front_end or super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _ByServer:
    config.option.loadscopereorder = False  # keep the order of the tests
    return _ByServer(config, log)
