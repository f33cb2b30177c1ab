"""The nodes in a real ComfyUI, over HTTP: their schemas and results."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from lpnsr_impl import (
    Schedule,
    adain_color_fix,
    load_autoencoder,
    load_denoiser,
    load_noise_predictor,
    sample,
    wavelet_color_fix,
)
from lpnsr_impl.accelerate import has_fast_bf16
from lpnsr_impl.config import SCALE
from lpnsr_impl.method.noise import seeded_noise
from lpnsr_impl.pictures.images import bicubic_upsample, to_01, to_pm1
from tests.host.locales import inputs_of
from tests.host.server import PromptError, Server, load_api_workflow, node_of_type
from tests.margin import crop, extend, with_margin
from tests.sprite import fringe, yellow_disc

from .conftest import (
    BUNDLED_START,
    LITE_DENOISER,
    WEIGHTS,
    Graph,
    add_save_node,
    random_image,
    wait_until_at_work,
)

WORKFLOWS = ["LPNSR quick start", "LPNSR PreSet-A", "LPNSR PreSet-B"]


# Schema


def test_every_node_explains_itself(nodes: dict[str, dict[str, Any]]) -> None:
    for node, info in nodes.items():
        assert info["category"] == "LPNSR", node
        assert info["description"], node
        for name, (_, options) in inputs_of(info).items():
            assert options.get("tooltip"), f"{node}: {name} has no tooltip"
        assert len(info["output_tooltips"]) == len(info["output"]), node
        assert all(info["output_tooltips"]), node


def test_nodes_are_found_by_what_people_search_for(
    server: Server, nodes: dict[str, dict[str, Any]]
) -> None:
    """The pack's nodes have search aliases if the core nodes of this ComfyUI version have them."""
    core = server.get("/object_info/ImageUpscaleWithModel")["ImageUpscaleWithModel"]
    for node, info in nodes.items():
        assert bool(info.get("search_aliases")) == bool(core.get("search_aliases")), node


def test_bundled_and_extra_files_are_listed(server: Server) -> None:
    (options,) = (
        spec[1]["options"]
        for name, spec in server.get("/object_info/LoadLPNSRModels")["LoadLPNSRModels"]["input"][
            "required"
        ].items()
        if name == "noise_predictor"
    )
    assert "lpnsr_lite_noise_predictor.safetensors" in options
    assert "noise_predictor.pth" in options
    assert options[-1] == "none"
    assert (server.base / "models" / "lpnsr").is_dir()


# Pictures


def save_picture(path: Path, width: int, height: int) -> Path:
    array = (random_image(1, height, width, 3)[0] * 255).byte().numpy()
    Image.fromarray(array).save(path)
    return path


@pytest.mark.parametrize("name", WORKFLOWS)
def test_shipped_workflows_run(server: Server, tmp_path: Path, name: str) -> None:
    prompt = load_api_workflow(name)
    picture = save_picture(tmp_path / "lr.png", 20, 13)
    node_of_type(prompt, "LoadImage")["inputs"]["image"] = server.upload(picture)
    node_of_type(prompt, "LPNSRSample")["inputs"]["steps"] = 2  # since full-size networks are slow
    (result,) = server.images(server.run(prompt))
    image = Image.open(io.BytesIO(result))
    assert image.size == (80, 52)
    assert len(image.convert("L").getcolors()) > 10


def core_upscale(lr: Tensor, seed: int, steps: int) -> Tensor:
    """Upscale with `lpnsr_impl` alone, without nodes. lr: [1,h,w,3] -> [1,4h,4w,3]"""
    autoencoder = load_autoencoder(WEIGHTS / "lpnsr_lite_autoencoder.safetensors")
    denoiser = load_denoiser(WEIGHTS / "lpnsr_lite_denoiser.safetensors")
    predictor = load_noise_predictor(WEIGHTS / "lpnsr_lite_noise_predictor.safetensors")
    x = lr.movedim(-1, 1)
    start = bicubic_upsample(x)
    y0 = crop(autoencoder.encode(extend(to_pm1(start), SCALE)))
    x0 = sample(
        with_margin(denoiser),
        with_margin(predictor),
        Schedule(),
        y0,
        to_pm1(x),
        steps=steps,
        noise=seeded_noise(seed),
    )
    sr = to_01(crop(autoencoder.decode(extend(x0)), SCALE))
    sr = wavelet_color_fix(sr, start.clamp(0, 1))
    return sr.movedim(1, -1)


@pytest.mark.parametrize("steps", [1, 4])
def test_nodes_compute_what_the_core_does(graph: Graph, steps: int) -> None:
    image = random_image(1, 24, 40, 3)
    expected = core_upscale(image, 7, steps)
    by_stages = graph.run(graph.stages(image, steps=steps), "decode")
    assert (by_stages - expected).abs().mean() < 1e-4
    assert torch.equal(graph.run(graph.upscale(image, steps=steps), "upscale"), by_stages)


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 7), (5, 2), (33, 31), (40, 72)])
def test_every_size_comes_out_four_times_larger(graph: Graph, h: int, w: int) -> None:
    result = graph.run(graph.upscale(random_image(1, h, w, 3)), "upscale")
    assert result.shape == (1, 4 * h, 4 * w, 3)
    assert result.isfinite().all()
    assert result.min() >= 0
    assert result.max() <= 1


def test_a_batch_item_equals_the_same_image_alone(graph: Graph) -> None:
    batch = random_image(3, 12, 9, 3)
    together = graph.run(graph.upscale(batch, steps=2), "upscale")
    for i in range(3):
        alone = graph.run(graph.upscale(batch[i : i + 1], steps=2), "upscale")
        torch.testing.assert_close(alone, together[i : i + 1], atol=1e-4, rtol=0)
    same = graph.run(graph.upscale(batch[:1].repeat(2, 1, 1, 1), steps=2), "upscale")
    assert torch.equal(same[0], same[1])


def test_seeds_repeat_and_differ(graph: Graph) -> None:
    image = random_image(1, 16, 16, 3)
    one, again, other = (graph.run(graph.stages(image, seed=s), "decode") for s in (5, 5, 6))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_grey_and_rgba_pictures(graph: Graph) -> None:
    rgb = random_image(1, 10, 12, 3)
    grey = graph.run(graph.upscale(rgb[..., :1], steps=1), "upscale")
    assert torch.equal(
        grey, graph.run(graph.upscale(rgb[..., :1].expand(-1, -1, -1, 3), steps=1), "upscale")
    )

    alpha = 0.5 + random_image(1, 10, 12, 1, seed=3) / 2  # no pixel is fully transparent
    rgba = graph.run(graph.upscale(torch.cat([rgb, alpha], -1), steps=1), "upscale")
    assert torch.equal(rgba[..., :3], graph.run(graph.upscale(rgb, steps=1), "upscale"))
    torch.testing.assert_close(
        rgba[..., 3:], bicubic_upsample(alpha.movedim(-1, 1)).clamp(0, 1).movedim(1, -1)
    )
    by_stages = graph.run(graph.stages(torch.cat([rgb, alpha], -1), steps=1), "decode")
    assert torch.equal(by_stages, rgba)


@pytest.mark.parametrize("ring", [0.0, 2 / 255])
def test_sprites_get_no_dark_fringe(graph: Graph, ring: float) -> None:
    image = yellow_disc(ring)[None]
    for prompt, node in ((graph.upscale(image), "upscale"), (graph.stages(image), "decode")):
        assert fringe(graph.run(prompt, node)[0]) < 0.05


def test_out_of_range_pictures_are_clamped(graph: Graph) -> None:
    wild = 3 * random_image(1, 10, 12, 3) - 1
    assert torch.equal(
        graph.run(graph.upscale(wild, steps=1), "upscale"),
        graph.run(graph.upscale(wild.clamp(0, 1), steps=1), "upscale"),
    )


@pytest.mark.parametrize(
    ("color_fix", "core"), [("wavelet", wavelet_color_fix), ("adain", adain_color_fix)]
)
def test_color_fixes(graph: Graph, color_fix: str, core: Any) -> None:
    image = random_image(1, 16, 16, 3)
    plain = graph.run(graph.upscale(image, color_fix="none"), "upscale").movedim(-1, 1)
    fixed = graph.run(graph.upscale(image, color_fix=color_fix), "upscale").movedim(-1, 1)
    reference = bicubic_upsample(image.movedim(-1, 1)).clamp(0, 1)
    torch.testing.assert_close(fixed, core(plain, reference), atol=1e-5, rtol=0)
    assert (fixed - plain).abs().mean() > 1e-3


@pytest.mark.parametrize("on", [(), (4,), (3,), (2,), (4, 3, 2)])
def test_predictor_switches_reach_their_steps(graph: Graph, on: tuple[int, ...]) -> None:
    image = random_image(1, 32, 32, 3)
    prompt = graph.stages(image, **{f"predictor_t{t}": t in on for t in (4, 3, 2)})
    y0 = graph.run(prompt, "encode", "latent")
    expected = sample(
        with_margin(load_denoiser(WEIGHTS / LITE_DENOISER)),
        with_margin(load_noise_predictor(WEIGHTS / "lpnsr_lite_noise_predictor.safetensors")),
        Schedule(),
        y0,
        to_pm1(image.movedim(-1, 1)),
        predictor_on={t: t in on for t in (4, 3, 2)},
        noise=seeded_noise(7),
    )
    ours = graph.run(prompt, "sample", "latent")
    assert (ours - expected).abs().max() < 1e-3 * expected.abs().max()


def test_one_box_switches_the_predictor(graph: Graph) -> None:
    image = random_image(1, 16, 16, 3)
    results: list[Tensor] = []
    for on in (True, False):
        stages = graph.stages(image, **{f"predictor_t{t}": on for t in (4, 3, 2)})
        results.append(graph.run(graph.upscale(image, use_predictor=on), "upscale"))
        assert torch.equal(results[-1], graph.run(stages, "decode"))
    assert not torch.equal(*results)


def test_kappa_and_predictor_mode_reach_the_chain(graph: Graph) -> None:
    """`predictor_mode` changes the result. With kappa = 0, the seed has no effect."""
    image = random_image(1, 16, 16, 3)
    drawn, mean = (
        graph.run(graph.stages(image, predictor_mode=mode), "sample", "latent")
        for mode in ("sample", "mean")
    )
    assert not torch.equal(drawn, mean)
    calm = [graph.run(graph.stages(image, kappa=0.0, seed=s), "sample", "latent") for s in (1, 2)]
    assert torch.equal(*calm)


@pytest.mark.parametrize(("precision", "bar"), [("bf16", 3.3e-3), ("fp16", 5e-4)])
def test_precisions(graph: Graph, precision: str, bar: float) -> None:
    """`bar`, the largest allowed mean error, is twice the measured one."""
    image = random_image(1, 16, 16, 3)
    exact = graph.run(graph.stages(image, steps=2), "decode")
    prompt = graph.stages(image, steps=2)
    prompt["models"] = graph.models(precision=precision)
    assert 0 < (graph.run(prompt, "decode") - exact).abs().mean() <= bar


def test_auto_is_what_the_cpu_likes(graph: Graph) -> None:
    prompt = graph.stages(random_image(1, 16, 16, 3), steps=2)
    prompt["models"] = graph.models(precision="auto")
    auto = graph.run(prompt, "decode")
    expected = "bf16" if has_fast_bf16(torch.device("cpu")) else "fp32"
    prompt["models"] = graph.models(precision=expected)
    assert torch.equal(graph.run(prompt, "decode"), auto)


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_offloaded_networks_run_on_a_gpu(graph: Graph, precision: str) -> None:
    prompt = graph.stages(random_image(1, 16, 16, 3))
    inputs = {"models": ["models", 0], "precision": precision}
    prompt["offloaded"] = {"class_type": "ProbeOffloaded", "inputs": inputs}
    prompt["sample"]["inputs"]["models"] = ["offloaded", 0]
    assert graph.run(prompt, "decode").shape == (1, 64, 64, 3)


def test_models_that_the_host_has_forgotten_do_not_count(graph: Graph) -> None:
    prompt = graph.stages(random_image(1, 16, 16, 3))
    prompt["forgotten"] = {"class_type": "ProbeForgotten", "inputs": {"models": ["models", 0]}}
    prompt["sample"]["inputs"]["models"] = ["forgotten", 0]
    assert graph.run(prompt, "decode").shape == (1, 64, 64, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_of_any_float_dtype(graph: Graph, dtype: torch.dtype) -> None:
    image = random_image(1, 16, 16, 3).to(dtype)
    given = graph.run(graph.upscale(image, steps=1), "upscale")
    assert given.dtype == torch.float32
    assert torch.equal(given, graph.run(graph.upscale(image.float(), steps=1), "upscale"))


# Upscale models


@pytest.mark.parametrize("model", ["DAT_light_x4.pth", "DAT_light_x2.pth", BUNDLED_START])
@pytest.mark.parametrize(("h", "w", "channels"), [(21, 30, 3), (1, 1, 4)])
def test_pre_upsample_with_real_weights(
    graph: Graph, model: str, h: int, w: int, channels: int
) -> None:
    image = random_image(1, h, w, channels)
    prompt = graph.stages(image)
    prompt["loader"] = {"class_type": "UpscaleModelLoader", "inputs": {"model_name": model}}
    prompt["start"]["inputs"]["upscale_model"] = ["loader", 0]
    start = graph.run(prompt, "start")
    bicubic = graph.run(graph.stages(image), "start")
    assert start.shape == bicubic.shape == (1, 4 * h, 4 * w, channels)
    assert (start - bicubic).abs().mean() < 0.05, "the start shows another picture"
    assert not torch.equal(start, bicubic)
    assert graph.run(prompt, "decode").shape == start.shape


def test_an_upscale_model_of_another_packs_loader(graph: Graph) -> None:
    prompt = graph.stages(random_image(1, 16, 16, 3))
    loader = {"class_type": "UpscaleModelLoader", "inputs": {"model_name": BUNDLED_START}}
    bare = {"class_type": "ProbeWithoutPatcher", "inputs": {"upscale_model": ["loader", 0]}}
    prompt |= {"loader": loader, "bare": bare}
    starts = []
    for node in ("loader", "bare"):
        prompt["start"]["inputs"]["upscale_model"] = [node, 0]
        starts.append(graph.run(prompt, "start"))
    assert torch.equal(*starts)


def test_an_upscale_model_that_gives_nan_is_named(graph: Graph) -> None:
    prompt = graph.upscale(random_image(1, 8, 8, 3), upscale_model=["loader", 0])
    prompt["loader"] = {
        "class_type": "UpscaleModelLoader",
        "inputs": {"model_name": "broken.pth"},
    }
    with pytest.raises(PromptError, match="output of the upscale model has NaN or infinite"):
        graph.run(prompt, "upscale")


# Cancelling


def test_cancel_ends_a_node_at_its_work(server: Server, graph: Graph) -> None:
    prompt = graph.upscale(random_image(2, 160, 160, 3))
    prompt_id = server.queue(add_save_node(prompt, "upscale", "never.safetensors"))
    wait_until_at_work(server, prompt_id)
    server.post("/interrupt", {})
    with pytest.raises(PromptError, match="interrupted") as error:
        server.wait(prompt_id)
    assert error.value.details["node_type"] == "LPNSRUpscale", "the node was not interrupted"
    assert not (server.base / "output" / "never.safetensors").exists()
    assert graph.run(graph.upscale(random_image(1, 8, 8, 3)), "upscale").shape == (1, 32, 32, 3)
