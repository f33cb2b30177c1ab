"""LPNSR Inspect, LPNSR Invention Map, LR consistency and LR-PSNR in a real ComfyUI."""

from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lpnsr_impl.pictures.consistency import back_project, lr_psnr
from lpnsr_impl.pictures.invention import heat_map
from lpnsr_impl.pictures.picture import Picture
from tests.host.server import PromptError

from .conftest import Graph, random_image

IMAGE = random_image(1, 9, 11, 3)


def outputs(graph: Graph, prompt: dict[str, Any], *links: tuple[str, int]) -> list[Tensor]:
    """Run a prompt, and return its image outputs at the given links (node id, output index)."""
    files = [f"{node}_{output}.safetensors" for node, output in links]
    saves = {
        f"save_{file}": {"class_type": "ProbeSave", "inputs": {"image": list(link), "file": file}}
        for link, file in zip(links, files, strict=True)
    }
    graph.server.run({**prompt, **saves})
    return [load_file(graph.server.base / "output" / file)["result"] for file in files]


def inspect(graph: Graph, image: Tensor, **inputs: Any) -> dict[str, Any]:
    prompt = graph.stages(image)
    defaults = {"seed": 7, "steps": 3, "kappa": 2.0, "predictor_mode": "sample"}
    links = {"models": ["models", 0], "samples": ["encode", 0]}
    prompt["inspect"] = {"class_type": "LPNSRInspect", "inputs": {**links, **defaults, **inputs}}
    return prompt


def test_inspect_shows_each_step_of_the_run_that_sample_makes(graph: Graph) -> None:
    prompt = inspect(graph, IMAGE)
    prompt["sample"]["inputs"]["steps"] = 3
    prompt["decode"]["inputs"]["color_fix"] = "none"
    maps, plot = outputs(graph, prompt, ("inspect", 0), ("inspect", 1))
    assert maps.shape == (5, 36, 44, 3)  # predictions at t = 3, 2, 1; noise at t = 3, 2
    assert plot.ndim == 4
    torch.testing.assert_close(maps[4:], graph.run(prompt, "decode"), atol=1e-4, rtol=0)
    noise = maps[1]
    assert torch.equal(noise[::4, ::4].repeat_interleave(4, 0).repeat_interleave(4, 1), noise)


def test_inspect_without_a_predictor_shows_random_noise(graph: Graph) -> None:
    prompt = inspect(graph, IMAGE.repeat(2, 1, 1, 1), steps=2)
    prompt["models"] = graph.models(noise_predictor="none")
    maps, plot = outputs(graph, prompt, ("inspect", 0), ("inspect", 1))
    assert maps.shape[0] == 6  # 2 pictures, each with 2 predictions and 1 noise map
    assert plot.shape[0] == 2
    assert torch.equal(maps[:3], maps[3:])
    predicted = graph.run(inspect(graph, IMAGE, steps=2), "inspect")
    torch.testing.assert_close(predicted[0], maps[0], atol=1e-4, rtol=0)
    assert not torch.equal(predicted[1], maps[1])


def test_inspect_says_that_there_is_no_noise_to_show(graph: Graph) -> None:
    with pytest.raises(PromptError, match="Set steps to 2 or more"):
        graph.run(inspect(graph, IMAGE, steps=1), "inspect")


def test_the_invention_map_is_the_deviation_over_seeds(graph: Graph) -> None:
    prompt = graph.upscale(IMAGE, seeds=3)
    prompt["upscale"]["class_type"] = "LPNSRInventionMap"
    prompt["mask"] = {"class_type": "MaskToImage", "inputs": {"mask": ["upscale", 1]}}
    heat, mask, mean = outputs(graph, prompt, ("upscale", 0), ("mask", 0), ("upscale", 2))
    mask = mask[..., 0]
    each = [graph.run(graph.upscale(IMAGE, seed=7 + i), "upscale") for i in range(3)]
    pictures = torch.stack(each)
    torch.testing.assert_close(mean, pictures.mean(dim=0))
    expected = pictures.std(dim=0).square().mean(dim=-1).sqrt() / 0.1
    torch.testing.assert_close(mask, expected.clamp(0, 1), atol=1e-4, rtol=0)
    assert mask.max() > 0
    torch.testing.assert_close(heat, heat_map(mask))


def test_lr_consistency_gives_the_lr_picture_back(graph: Graph) -> None:
    lr = Picture(IMAGE.movedim(-1, 1))
    plain = graph.run(graph.upscale(IMAGE), "upscale")
    off = graph.run(graph.upscale(IMAGE, lr_consistency=False), "upscale")
    assert torch.equal(plain, off)
    on = graph.run(graph.upscale(IMAGE, lr_consistency=True), "upscale")
    assert lr_psnr(on.movedim(-1, 1), lr) > max(45, lr_psnr(plain.movedim(-1, 1), lr))
    expected = back_project(plain.movedim(-1, 1).contiguous(), lr).movedim(1, -1)
    torch.testing.assert_close(on, expected, atol=1e-5, rtol=0)
    prompt = graph.stages(IMAGE)
    prompt["decode"]["inputs"]["lr_consistency"] = True
    assert torch.equal(graph.run(prompt, "decode"), on)


@pytest.mark.parametrize(("node", "source"), [("upscale", "upscale"), ("stages", "decode")])
def test_lr_psnr_is_given_without_consistency_too(graph: Graph, node: str, source: str) -> None:
    prompt = getattr(graph, node)(IMAGE)
    prompt["text"] = {"class_type": "PreviewAny", "inputs": {"source": [source, 1]}}
    given = float(graph.server.run(prompt)["text"]["text"][0])
    result = graph.run(prompt, source).movedim(-1, 1)
    assert given == pytest.approx(lr_psnr(result, Picture(IMAGE.movedim(-1, 1))), abs=1e-3)
