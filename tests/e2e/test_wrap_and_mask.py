"""The inputs `wrap` and `mask` of the nodes, in a real ComfyUI."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.host.server import PromptError

from .conftest import BUNDLED_START, Graph, random_image
from .test_core_nodes import REPEAT, from_batch, insert

Prompt = dict[str, Any]


@pytest.fixture(scope="module")
def picture() -> Tensor:
    return random_image(1, 6, 8, 3)


def stages(graph: Graph, image: Tensor, wrap: str = "none") -> Prompt:
    """Make the prompt of `Graph.stages` with one step and the bundled upscale model."""
    prompt = graph.stages(image, steps=1)
    prompt["loader"] = {"class_type": "UpscaleModelLoader", "inputs": {"model_name": BUNDLED_START}}
    prompt["start"]["inputs"].update(upscale_model=["loader", 0], wrap=wrap)
    prompt["encode"]["inputs"]["wrap"] = wrap
    return prompt


def box(graph: Graph, image: Tensor, **inputs: Any) -> Prompt:
    prompt = stages(graph, image)
    inputs = {"steps": 1, "upscale_model": ["loader", 0], **inputs}
    return {**graph.upscale(image, **inputs), "loader": prompt["loader"]}


def add_mask(graph: Graph, prompt: Prompt, mask: Tensor, feather: int = 0) -> Prompt:
    """Connect a mask [B,H,W] to LPNSR Upscale, or a mask and the start image to LPNSR Decode."""
    channel = mask[..., None].expand(-1, -1, -1, 3).contiguous()
    prompt["mask_image"] = graph.picture(channel, "mask.safetensors")
    to_mask = {"image": ["mask_image", 0], "channel": "red"}
    prompt["mask"] = {"class_type": "ImageToMask", "inputs": to_mask}
    inputs: Prompt = {"mask": ["mask", 0], "feather": feather}
    if "upscale" in prompt:
        prompt["upscale"]["inputs"] |= inputs
    else:
        prompt["decode"]["inputs"] |= {**inputs, "start_image": ["start", 0]}
    return prompt


# Wrap


@pytest.mark.parametrize("wrap", ["x", "y", "both"])
def test_the_chain_and_the_box_wrap_alike(graph: Graph, picture: Tensor, wrap: str) -> None:
    chain = graph.run(stages(graph, picture, wrap), "decode")
    assert chain.shape == (1, 24, 32, 3)
    assert torch.equal(graph.run(box(graph, picture, wrap=wrap), "upscale"), chain)
    assert not torch.equal(graph.run(stages(graph, picture), "decode"), chain)


@pytest.mark.parametrize("place", [("encode", "sample"), ("sample", "decode")])
def test_wrap_goes_through_core_latent_nodes(
    graph: Graph, picture: Tensor, place: tuple[str, str]
) -> None:
    expected = graph.run(stages(graph, picture, "x"), "decode")
    prompt = stages(graph, picture, "x")
    insert(prompt, *place, "samples", REPEAT, from_batch(1))
    assert torch.equal(graph.run(prompt, "decode"), expected)


@pytest.mark.parametrize("node", ["start", "encode"])
def test_an_unknown_wrap_is_refused(graph: Graph, picture: Tensor, node: str) -> None:
    prompt = stages(graph, picture)
    prompt[node]["inputs"]["wrap"] = "z"
    with pytest.raises(PromptError, match="'z' is unknown, choose one of: none, x, y, both"):
        graph.run(prompt, "decode")


# Mask


@pytest.mark.parametrize("size", [(6, 8), (24, 32), (60, 80)])
def test_masks_of_nothing_and_all_are_the_start_and_the_result(
    graph: Graph, picture: Tensor, size: tuple[int, int]
) -> None:
    start = graph.run(stages(graph, picture), "start")
    result = graph.run(stages(graph, picture), "decode")
    for mask, expected in ((torch.zeros(1, *size), start), (torch.ones(1, *size), result)):
        assert torch.equal(
            graph.run(add_mask(graph, box(graph, picture), mask, 8), "upscale"), expected
        )
        assert torch.equal(
            graph.run(add_mask(graph, stages(graph, picture), mask, 8), "decode"), expected
        )


def test_what_is_kept_stays_as_it_is_whatever_is_corrected(graph: Graph, picture: Tensor) -> None:
    """Without feathering, pixels where the mask is 0 equal the start image exactly, including
    alpha."""
    image = torch.cat([picture, random_image(1, 6, 8, 1, seed=3)], dim=-1)
    mask = torch.zeros(1, 24, 32)
    mask[:, 5:15, 10:] = 1
    prompt = box(graph, image, lr_consistency=True)
    result = graph.run(prompt, "upscale")
    start = graph.run(stages(graph, image), "start")
    expected = torch.where(mask[..., None] > 0, result, start)
    assert torch.equal(graph.run(add_mask(graph, prompt, mask), "upscale"), expected)


def test_each_picture_of_a_batch_may_have_its_mask(graph: Graph) -> None:
    batch = random_image(2, 6, 8, 3)
    start = graph.run(stages(graph, batch), "start")
    result = graph.run(stages(graph, batch), "decode")
    masks = torch.stack([torch.zeros(6, 8), torch.ones(6, 8)])
    for prompt, source in ((box(graph, batch), "upscale"), (stages(graph, batch), "decode")):
        mixed = graph.run(add_mask(graph, prompt, masks), source)
        assert torch.equal(mixed, torch.stack([start[0], result[1]]))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(1, 64, 64), r"mask is 64x64, expected any size .* of the image, 8x6.*Load"),
        (torch.full((1, 6, 8), torch.nan), "mask has NaN or infinite values"),
        (torch.zeros(3, 6, 8), r"mask has batch size 3, expected 1 \(for all images\) or 1"),
    ],
)
def test_masks_that_cannot_be_are_explained(
    graph: Graph, picture: Tensor, mask: Tensor, message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        graph.run(add_mask(graph, box(graph, picture), mask), "upscale")


@pytest.mark.parametrize("missing", ["mask", "start_image"])
def test_mask_and_start_belong_together(graph: Graph, picture: Tensor, missing: str) -> None:
    prompt = add_mask(graph, stages(graph, picture), torch.ones(1, 6, 8))
    del prompt["decode"]["inputs"][missing]
    with pytest.raises(PromptError, match="mask and start_image belong together"):
        graph.run(prompt, "decode")
