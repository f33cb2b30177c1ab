"""Tiling, and smaller tiles when memory runs out, in a real ComfyUI."""

import math
import re

import pytest
import torch
from torch import Tensor

from lpnsr_impl.pictures.reading import read_picture
from tests.host.server import PACK, PromptError, Server

from .conftest import Graph, random_image


@pytest.fixture(scope="module")
def picture() -> Tensor:
    """A crop of the example picture, an IMAGE [1,96,128,3]."""
    example = read_picture(PACK / "workflows" / "lpnsr_example.png")
    return example[None, :, 14:110, 30:158].movedim(1, -1)


@pytest.fixture
def whole(graph: Graph, picture: Tensor) -> Tensor:
    return graph.run(graph.upscale(picture), "upscale")


def psnr(a: Tensor, b: Tensor) -> float:
    return -10 * math.log10((a - b).square().mean().clamp(min=1e-12))  # avoids log(0)


def in_tiles(graph: Graph, picture: Tensor, size: int, overlap: int) -> Tensor:
    tiles = {"tile_size": size, "overlap": overlap}
    prompt = graph.stages(picture, **tiles)
    for node in ("encode", "decode"):
        prompt[node]["inputs"].update(tiles)
    return graph.run(prompt, "decode")


def test_tiles_hardly_show(graph: Graph, picture: Tensor, whole: Tensor) -> None:
    """The tiled result is close to the untiled one, and has no visible edges at tile borders."""
    tiled = in_tiles(graph, picture, 64, 32)
    assert tiled.shape == whole.shape
    assert psnr(tiled, whole) > 30
    # Mean squared differences between neighbouring columns.
    steps, expected = (x.diff(dim=2).square().mean(dim=(0, 1, 3)) for x in (tiled, whole))
    borders = [4 * x + d - 1 for x in (28, 60, 68, 100) for d in (-1, 0, 1)]
    assert steps[borders].mean() <= 1.2 * expected[borders].mean()


def test_the_one_box_tiles_as_the_stages_do(graph: Graph, picture: Tensor) -> None:
    small = picture[:, :40, :48]
    box = graph.run(graph.upscale(small, tile_size=32, overlap=16), "upscale")
    assert torch.equal(box, in_tiles(graph, small, 32, 16))


@pytest.fixture(scope="module")
def wide(server: Server) -> tuple[Tensor, Tensor]:
    """A picture [1,40,90,3], and its result with two diffusion steps and without tiles."""
    graph, image = Graph(server), random_image(1, 40, 90, 3)
    return image, graph.run(graph.stages(image, steps=2), "decode")


@pytest.mark.parametrize("part", ["encoder", "denoiser", "noise_predictor", "decoder"])
def test_tiles_halve_when_memory_runs_out(
    graph: Graph, wide: tuple[Tensor, Tensor], part: str
) -> None:
    image, expected = wide
    prompt = graph.stages(image, steps=2)
    prompt["real"] = prompt["models"]
    limit = 320 if part == "encoder" else 80  # maximum input width
    inputs = {"models": ["real", 0], "part": part, "limit": limit}
    prompt["models"] = {"class_type": "ProbeOutOfMemory", "inputs": inputs}
    result = graph.run(prompt, "decode")
    assert result.shape == (1, 160, 360, 3)
    assert psnr(result, expected) > 28


def test_halved_tiles_overlap_by_half_at_most(graph: Graph) -> None:
    """When the overlap was not limited to half a tile, this picture was cut into 169 tiles, and a
    larger one into 37,249."""
    tiles = {"tile_size": 128, "overlap": 120}
    prompt = graph.stages(random_image(1, 160, 160, 3), steps=1, **tiles)
    prompt["real"] = prompt["models"]
    inputs = {"models": ["real", 0], "part": "denoiser", "limit": 80}
    prompt["models"] = {"class_type": "ProbeOutOfMemory", "inputs": inputs}
    graph.run(prompt, "sample", "latent")
    plans = re.findall(
        r"160x160 to 640x640, (\d+ tiles of \d+x\d+, overlap \d+)", graph.server.log.read_text()
    )
    assert plans[-2:] == ["4 tiles of 120x120, overlap 64", "16 tiles of 72x72, overlap 32"]


def test_the_smallest_tile_that_does_not_fit_is_an_error(graph: Graph) -> None:
    prompt = graph.stages(random_image(1, 40, 90, 3))
    prompt["real"] = prompt["models"]
    inputs = {"models": ["real", 0], "part": "denoiser", "limit": 16}
    prompt["models"] = {"class_type": "ProbeOutOfMemory", "inputs": inputs}
    with pytest.raises(PromptError, match="Out of memory even with tiles of 32 LR pixels"):
        graph.run(prompt, "decode")
    again = graph.run(graph.stages(random_image(1, 8, 8, 3)), "decode")
    assert again.shape == (1, 32, 32, 3)
