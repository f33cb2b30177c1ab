"""ComfyUI's option `--fp16-intermediates`: all tensors between nodes are in half precision."""

from collections.abc import Iterator

import pytest
import torch

from tests.host.install import comfyui_path
from tests.host.server import Server, running

from .conftest import PROBE, Graph, random_image

pytestmark = pytest.mark.skipif(
    "--fp16-intermediates" not in (comfyui_path() / "comfy" / "cli_args.py").read_text(),
    reason="this ComfyUI is older than --fp16-intermediates",
)


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    base = tmp_path_factory.mktemp("half")
    with running(base, packs=PROBE, device=("--cpu", "--fp16-intermediates")) as server:
        yield server


def test_every_wire_is_in_half_precision_and_the_picture_the_same(
    server: Server, half: Server
) -> None:
    image = random_image(1, 20, 24, 4)
    expected = Graph(server).run(Graph(server).stages(image), "decode")
    graph = Graph(half)
    prompt = graph.stages(image)
    for node, kind in (("start", "image"), ("encode", "latent"), ("sample", "latent")):
        assert graph.run(prompt, node, kind).dtype == torch.float16
    picture = graph.run(prompt, "decode")
    assert picture.dtype == torch.float16
    assert (picture.float() - expected).abs().mean() < 0.01
    assert graph.run(graph.upscale(image), "upscale").dtype == torch.float16
