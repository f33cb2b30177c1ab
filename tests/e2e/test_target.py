"""LPNSR Upscale in sizes other than x4, in a real ComfyUI."""

import json
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from lpnsr_impl.config import Wrap
from lpnsr_impl.pictures.consistency import lr_psnr
from lpnsr_impl.pictures.edges import resample
from lpnsr_impl.pictures.images import bicubic_upsample
from lpnsr_impl.pictures.picture import Picture
from tests.eventually import run_in_thread
from tests.host.server import PromptError

from .conftest import Graph, random_image
from .test_progress import follow
from .test_wrap_and_mask import add_mask

Prompt = dict[str, Any]


@pytest.fixture(scope="module")
def picture() -> Tensor:
    return random_image(1, 12, 20, 3)


def upscale(graph: Graph, image: Tensor, **inputs: Any) -> Tensor:
    """Run LPNSR Upscale with one step."""
    return graph.run(graph.upscale(image, steps=1, **inputs), "upscale")


def resize(image: Tensor, h: int, w: int, wrap: Wrap = "none") -> Tensor:
    x = resample(image.movedim(-1, 1), h, w, wrap).clamp(0, 1)
    return x.movedim(1, -1).contiguous()


def test_x4_is_the_same_by_any_widget(graph: Graph, picture: Tensor) -> None:
    plain = upscale(graph, picture)
    assert torch.equal(upscale(graph, picture, factor=4.0), plain)
    assert torch.equal(upscale(graph, picture, longest_side=80), plain)
    assert torch.equal(upscale(graph, picture, factor=1.5, longest_side=80), plain)


@pytest.mark.parametrize(
    ("inputs", "size"), [({"factor": 1.0}, (12, 20)), ({"longest_side": 55}, (33, 55))]
)
def test_up_to_x4_it_is_downscaled(
    graph: Graph, picture: Tensor, inputs: Prompt, size: tuple[int, int]
) -> None:
    expected = resize(upscale(graph, picture), *size)
    assert torch.equal(upscale(graph, picture, **inputs), expected)


@pytest.mark.parametrize("wrap", ["none", "x"])
def test_above_x4_a_second_pass_begins_at_a_quarter(
    graph: Graph, picture: Tensor, wrap: Wrap
) -> None:
    """From 20x12 to 99x59: the first pass gives 80x48, which is downscaled to 25x15. The second
    pass gives 100x60, which is downscaled to 99x59."""
    first = upscale(graph, picture, wrap=wrap)
    second = upscale(graph, resize(first, 15, 25, wrap), wrap=wrap)
    expected = resize(second, 59, 99, wrap)
    result = upscale(graph, picture, longest_side=99, wrap=wrap)
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=0)


def test_x16_is_x4_of_x4(graph: Graph) -> None:
    small = random_image(1, 3, 5, 3)
    expected = upscale(graph, upscale(graph, small))
    assert expected.shape == (1, 48, 80, 3)
    assert torch.equal(upscale(graph, small, factor=16.0), expected)


def test_batches_and_alpha_come_along(graph: Graph) -> None:
    batch = random_image(2, 8, 6, 4)
    result = upscale(graph, batch, factor=6.0)
    assert result.shape == (2, 48, 36, 4)
    for i in range(2):
        alone = upscale(graph, batch[i : i + 1], factor=6.0)
        torch.testing.assert_close(result[i : i + 1], alone, atol=1e-4, rtol=0)
    torch.testing.assert_close(result[..., 3:], resize(batch[..., 3:], 48, 36))


@pytest.mark.parametrize("factor", [1.5, 6.0])
def test_lr_psnr_and_consistency_are_of_the_image_itself(
    graph: Graph, picture: Tensor, factor: float
) -> None:
    psnrs: list[float] = []
    for consistent in (False, True):
        prompt = graph.upscale(picture, steps=1, factor=factor, lr_consistency=consistent)
        result = graph.run(prompt, "upscale").movedim(-1, 1)
        psnrs.append(lr_psnr(result, Picture(picture.movedim(-1, 1))))
        prompt["shown"] = {"class_type": "PreviewAny", "inputs": {"source": ["upscale", 1]}}
        (shown,) = graph.server.run(prompt)["shown"]["text"]
        assert float(shown) == pytest.approx(psnrs[-1], abs=1e-3)
    assert psnrs[1] > max(45, psnrs[0] + 5)


@pytest.mark.parametrize("factor", [2.0, 8.0])
def test_what_a_mask_keeps_is_the_start_in_that_size(
    graph: Graph, picture: Tensor, factor: float
) -> None:
    mask = torch.zeros(1, 12, 20)
    mask[:, :, 10:] = 1
    prompt = graph.upscale(picture, steps=1, factor=factor, lr_consistency=True)
    result = graph.run(add_mask(graph, prompt, mask, feather=2), "upscale")
    start = picture.movedim(-1, 1)
    for h, w in [(24, 40)] if factor == 2 else [(24, 40), (96, 160)]:
        start = resample(bicubic_upsample(start), h, w).clamp(0, 1)
    edge = round(8 * factor)
    kept = start.movedim(1, -1)[:, :, :edge]
    # Compare only the left half of the part that the mask keeps: near the part that it replaces,
    # the start image of a second pass contains generated pixels.
    torch.testing.assert_close(result[:, :, : edge // 2], kept[:, :, : edge // 2])
    assert not torch.allclose(result[:, :, edge:], start.movedim(1, -1)[:, :, edge:], atol=0.01)


def test_the_node_says_beforehand_what_it_will_do(graph: Graph, picture: Tensor) -> None:
    prompt = graph.upscale(picture, steps=1, seed=104, factor=10.0)
    prompt["probe"] = {
        "class_type": "ProbeSave",
        "inputs": {"image": ["upscale", 0], "file": "target.safetensors"},
    }
    texts, _ = run_in_thread(follow(graph, prompt))
    plan = "20x12 to 200x120 in 2 passes: x4 to 80x48, down to 50x30, x4 to 200x120"
    first, *_, last = texts["upscale"]
    assert re.fullmatch(rf"loading  \n{plan}  \n1 tile, \d+ MB", first)
    assert re.fullmatch(rf"done in .*  \n{plan}  \n1 tile, \d+ MB", last)
    assert "LPNSR: 50x30 to 200x120, 1 tile, " in graph.server.log.read_text()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"longest_side": 19}, "the picture is 20x12: expected 20 to 320"),
        ({"longest_side": 321}, "the picture is 20x12: expected 20 to 320"),
        ({"factor": 16.5}, "16"),
        ({"factor": 0.5}, "1"),
    ],
)
def test_sizes_out_of_reach_are_told(
    graph: Graph, picture: Tensor, inputs: Prompt, message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        upscale(graph, picture, **inputs)


def test_a_linked_factor_is_checked_too(graph: Graph, picture: Tensor) -> None:
    prompt = graph.upscale(picture, factor=["number", 0])
    prompt["number"] = {"class_type": "PrimitiveFloat", "inputs": {"value": 17.0}}
    with pytest.raises(PromptError, match="factor is 17, expected 1 to 16"):
        graph.run(prompt, "upscale")


def test_what_no_memory_holds_is_refused_at_once(graph: Graph) -> None:
    with pytest.raises(PromptError, match=r"32000x32000 need 70\.1 GB of memory for pixels alone"):
        upscale(graph, torch.zeros(1, 2000, 2000, 3), factor=16.0)


@pytest.mark.parametrize("node", ["LPNSRPreUpsample", "LPNSRDecode", "LPNSRInventionMap"])
def test_other_nodes_refuse_what_main_memory_does_not_hold(graph: Graph, node: str) -> None:
    prompt = graph.stages(random_image(1, 64, 64, 3))
    widgets: dict[str, Any] = {}
    if node == "LPNSRPreUpsample":
        links = {"image": ["image", 0]}
    elif node == "LPNSRDecode":
        links = {"models": ["models", 0], "samples": ["encode", 0]}
        widgets = {"color_fix": "wavelet"}
    else:
        links = {"models": ["models", 0], "image": ["image", 0]}
        widgets = {"seed": 7, "seeds": 2, "steps": 1, "kappa": 2.0, "use_predictor": True}
        widgets |= {"predictor_mode": "sample", "color_fix": "wavelet"}
    inputs = {"node": node, "widgets": json.dumps(widgets), **links}
    prompt["scarce"] = {"class_type": "ProbeScarceMemory", "inputs": inputs}
    with pytest.raises(PromptError, match=r"256x256 need .* GB of memory for pixels alone"):
        graph.run(prompt, "scarce")
