"""All nodes with images in half precision, and with ComfyUI's option `--fp16-intermediates`."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.host.install import comfyui_path
from tests.host.server import Server, running

from .conftest import PROBE, Graph, random_image
from .test_wrap_and_mask import add_mask

HAS_OPTION = "--fp16-intermediates" in (comfyui_path() / "comfy" / "cli_args.py").read_text()
OUTPUTS = ("start", "decode", "upscale", "compare", "heat_map", "inspect")
"""Ids of the nodes in `every_node` whose first output is an image."""


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if not HAS_OPTION:
        pytest.skip("this ComfyUI is older than --fp16-intermediates")
    base = tmp_path_factory.mktemp("half")
    with running(base, packs=PROBE, device=("--cpu", "--fp16-intermediates")) as server:
        yield server


def every_node(graph: Graph, image: Tensor) -> dict[str, Any]:
    """Make a prompt with every node of the pack that processes images. Optional image inputs are
    connected."""
    links = {"models": ["models", 0], "image": ["image", 0]}
    chain = {"seed": 7, "steps": 2, "kappa": 2.0, "predictor_mode": "sample"}
    colors = {"use_predictor": True, "color_fix": "wavelet"}
    mask = torch.zeros(1, *image.shape[1:3])
    mask[:, :10] = 1
    prompt = graph.upscale(image, steps=2)
    prompt = {**add_mask(graph, prompt, mask), **add_mask(graph, graph.stages(image), mask)}
    prompt["sample"]["inputs"] |= {"lr_image": ["image", 0], "steps": 2}
    prompt["decode"]["inputs"]["lr_image"] = ["image", 0]
    prompt["compare"] = {
        "class_type": "LPNSRCompare",
        "inputs": {"image": ["decode", 0], "lr_image": ["image", 0]},
    }
    prompt["heat_map"] = {
        "class_type": "LPNSRInventionMap",
        "inputs": {**links, **chain, **colors, "seeds": 2},
    }
    links = {"models": ["models", 0], "samples": ["encode", 0]}
    prompt["inspect"] = {"class_type": "LPNSRInspect", "inputs": {**links, **chain}}
    return prompt


def test_an_image_in_half_precision_gives_what_it_gives_in_single(graph: Graph) -> None:
    image = random_image(1, 20, 24, 4).half()
    single = every_node(graph, image.float())
    expected = {node: graph.run(single, node) for node in OUTPUTS}
    prompt = every_node(graph, image)
    for node, result in expected.items():
        assert torch.equal(graph.run(prompt, node).float(), result.float()), node


def test_every_wire_is_in_half_precision_and_the_picture_the_same(
    server: Server, half: Server
) -> None:
    image = random_image(1, 20, 24, 4)
    graph, plain = Graph(half), Graph(server)
    prompt, expected = every_node(graph, image), every_node(plain, image)
    for node in ("encode", "sample"):
        assert graph.run(prompt, node, "latent").dtype == torch.float16
    for node in OUTPUTS:
        result = graph.run(prompt, node)
        assert result.dtype == torch.float16, node
        assert (result.float() - plain.run(expected, node)).abs().mean() < 0.01, node
