"""Repeated runs with each of ComfyUI's cache modes: equal seeds give equal pictures, and memory use
does not grow."""

from pathlib import Path

import psutil
import pytest
import torch

from tests.host.server import Server, running

from .conftest import PROBE, Graph, random_image

ALL_MEMORY = "100000"
"""Memory that --cache-ram keeps free, in GB. It is more than the machine has, so that the cache
evicts all it can."""


@pytest.mark.parametrize(
    ("options", "keeps_models", "runs"),
    [
        (("--cache-none",), False, 8),
        (("--cache-lru", "1"), True, 8),
        (("--cache-ram", ALL_MEMORY), False, 3),  # few runs, since each takes ten times as long
    ],
    ids=["none", "lru", "ram"],
)
def test_pictures_are_the_same_and_memory_stays(
    tmp_path: Path, options: tuple[str, ...], keeps_models: bool, runs: int
) -> None:
    """Models are loaded again only if the cache does not keep them."""
    with running(tmp_path, packs=PROBE, device=("--cpu", *options)) as server:
        graph = Graph(server)
        image = random_image(1, 16, 16, 3)
        pictures, loaded = [], []
        for seed in (7, 7, 8, 7):
            pictures.append(graph.run(graph.stages(image, seed=seed, steps=1), "decode"))
            loaded.append(loads_models(server))
        first, again, other, back = pictures
        assert loaded == [True, *3 * [not keeps_models]]
        assert torch.equal(first, again)
        assert torch.equal(first, back)
        assert not torch.equal(first, other)
        held = []
        for run in range(runs):
            graph.run(graph.stages(image, seed=run, steps=1), "decode")
            held.append(memory_use(server))
        resident, tensors = zip(*held, strict=True)
        assert len(set(tensors[1:])) == 1, tensors
        assert resident[-1] < 1.05 * max(resident[:2]), [size // 2**20 for size in resident]


def loads_models(server: Server) -> bool:
    """Return whether Load LPNSR Models ran in the last prompt, instead of being cached."""
    (entry,) = server.get("/history?max_items=1").values()
    messages = dict(entry["status"]["messages"])
    return "models" not in messages["execution_cached"]["nodes"]


def memory_use(server: Server) -> tuple[int, int]:
    """Free unused memory, then return the server's resident memory in bytes and its number of
    tensors."""
    outputs = server.run({"memory": {"class_type": "ProbeMemory", "inputs": {}}})
    resident = psutil.Process(server.process.pid).memory_info().rss
    return resident, outputs["memory"]["tensors"][0]
