"""One-step students in a real ComfyUI: together with LPNSR and ResShift, and in every node."""

import json
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lpnsr_impl import load_autoencoder, sample_once
from lpnsr_impl.config import RESSHIFT_15, SCALE
from lpnsr_impl.files.checkpoints import load_model
from lpnsr_impl.method.noise import seeded_noise
from lpnsr_impl.method.schedule import Schedule
from lpnsr_impl.pictures.images import to_01, to_pm1
from tests.host.server import PromptError, Server
from tests.margin import crop, extend, with_margin
from tests.small import (
    autoencoder_weights,
    denoiser_weights,
    predictor_weights,
    unet_config,
)

from .conftest import Graph, random_image

FAMILY = {"lpnsr.family": "shifting"}
A, P = "shifting_a.safetensors", "shifting_p.safetensors"
METHODS = {
    "LPNSR": ("shifting_d4.safetensors", P),
    "ResShift": ("shifting_d4.safetensors", P),
    "ResShift 15": ("shifting_s15.safetensors", "none"),
    "SinSR": ("shifting_sinsr.safetensors", "none"),
    "RSD": ("shifting_rsd.safetensors", "none"),
}
STUDENTS = ["SinSR", "RSD"]


@pytest.fixture(scope="module", autouse=True)
def files(server: Server) -> None:
    """Save small networks of one family to the server's model folder, with a denoiser for each
    method."""
    folder = server.base / "models" / "lpnsr"
    save_file(autoencoder_weights(), folder / A, FAMILY)
    save_file(predictor_weights(), folder / P, FAMILY)
    fifteen = {"lpnsr.schedule": json.dumps(vars(RESSHIFT_15))}
    headers = {
        "shifting_d4.safetensors": {},
        "shifting_s15.safetensors": fifteen,
        "shifting_sinsr.safetensors": {"lpnsr.student": "SinSR"},
        "shifting_rsd.safetensors": {"noise_mode": "concat", "noise_channels": "1"},
    }
    for name, header in headers.items():
        config = unet_config(in_channels=7 if "noise_mode" in header else 6)
        save_file(denoiser_weights(config), folder / name, FAMILY | header)


def prompt_of(graph: Graph, method: str, image: torch.Tensor, **sample: Any) -> dict[str, Any]:
    """Make the prompt of `Graph.stages` for a key of `METHODS`. For one-step students, `steps`
    stays at the default of 4, which they ignore."""
    denoiser, predictor = METHODS[method]
    steps = {"steps": 15} if method == "ResShift 15" else {}
    off = dict.fromkeys(("predictor_t4", "predictor_t3", "predictor_t2"), False)
    prompt = graph.stages(image, **steps, **(off if method == "ResShift" else {}), **sample)
    models = graph.models(autoencoder=A, denoiser=denoiser, noise_predictor=predictor)
    return {**prompt, "models": models}


def test_all_that_shifts_residuals_runs_in_one_graph(graph: Graph) -> None:
    """All methods run in one graph, on the same encoded latent and LR image."""
    image = random_image(1, 12, 20, 3)
    whole: dict[str, Any] = {}
    batches: list[str] = []
    for method in METHODS:
        of_method = prompt_of(graph, method, image)
        for name, node in of_method.items():
            if name in ("image", "start", "encode"):
                whole[name] = node if method == "LPNSR" else whole[name]
                continue
            inputs = {
                key: [f"{method} {value[0]}", value[1]]
                if isinstance(value, list) and value[0] in ("models", "sample")
                else value
                for key, value in node["inputs"].items()
            }
            whole[f"{method} {name}"] = {**node, "inputs": inputs}
        batches.append(f"{method} decode")
    whole["encode"]["inputs"]["models"] = ["LPNSR models", 0]
    batch = batches[0]
    for i, decoded in enumerate(batches[1:]):
        inputs = {"image1": [batch, 0], "image2": [decoded, 0]}
        batch = f"batch {i}"
        whole[batch] = {"class_type": "ImageBatch", "inputs": inputs}
    results = graph.run(whole, batch)
    assert results.shape == (len(METHODS), 48, 80, 3)
    assert results.isfinite().all()
    for i in range(len(METHODS)):
        for j in range(i):
            assert (results[i] - results[j]).abs().mean() > 1e-3, (
                "two methods give the same picture"
            )
    alone = graph.run(prompt_of(graph, "RSD", image), "decode")
    assert (alone[0] - results[-1]).abs().max() < 1e-4


@pytest.mark.parametrize("method", STUDENTS)
@torch.inference_mode()  # ComfyUI runs nodes in this mode
def test_nodes_and_library_agree(server: Server, graph: Graph, method: str) -> None:
    image = random_image(1, 64, 64, 3)
    prompt = prompt_of(graph, method, image, steps=3)
    y0 = graph.run(prompt, "encode", "latent")
    folder = server.base / "models" / "lpnsr"
    model = load_model(folder / METHODS[method][0])
    denoiser, student = model.network, model.student
    assert student
    calls: list[int] = []
    denoiser.register_forward_pre_hook(lambda _, inputs: calls.append(inputs[1]))
    lr = to_pm1(image.movedim(-1, 1))
    expected = sample_once(
        with_margin(denoiser),
        student,
        Schedule(**vars(RESSHIFT_15)),
        y0,
        lr,
        noise=seeded_noise(7, RESSHIFT_15.num_timesteps),
    )
    assert calls == [14]
    ours = graph.run(prompt, "sample", "latent")
    assert (ours - expected).abs().max() < 1e-3 * expected.abs().max()
    autoencoder = load_autoencoder(folder / A)
    codes = method == "SinSR"
    decoded, other = (
        to_01(crop(autoencoder.decode(extend(ours), quantize), SCALE))
        for quantize in (codes, not codes)
    )
    prompt["decode"]["inputs"]["color_fix"] = "none"
    image_out = graph.run(prompt, "decode").movedim(-1, 1)
    assert (image_out - decoded).abs().mean() < 1e-3
    assert (image_out - other).abs().mean() > 10 * (image_out - decoded).abs().mean() + 1e-4


@pytest.mark.parametrize("method", STUDENTS)
def test_steps_and_switches_do_not_matter_and_the_node_says_so(
    server: Server, graph: Graph, method: str
) -> None:
    image = random_image(1, 16, 16, 3)
    results = [
        graph.run(prompt_of(graph, method, image, steps=steps, predictor_t2=on), "decode")
        for steps, on in ((1, False), (4, True), (15, True))
    ]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    log = server.get("/internal/logs")
    assert f"{method} takes one step and ignores the steps setting" in log
    one_box = graph.upscale(image)
    one_box["models"] = prompt_of(graph, method, image)["models"]
    assert (graph.run(one_box, "upscale") - results[0]).abs().max() < 1e-4


def test_large_pictures_go_in_tiles(graph: Graph) -> None:
    """The tolerance is large, since tiles change the positions of the attention windows, on which
    the results of untrained networks depend."""
    image = random_image(1, 80, 96, 3)
    whole, tiled = (
        graph.run(prompt_of(graph, "RSD", image, tile_size=size, overlap=16), "decode")
        for size in (0, 32)
    )
    assert tiled.shape == (1, 320, 384, 3)
    assert (tiled - whole).abs().mean() < 0.25


@pytest.mark.parametrize("method", STUDENTS)
def test_inspect_shows_the_prediction_and_the_noise_of_the_start(graph: Graph, method: str) -> None:
    prompt = prompt_of(graph, method, random_image(2, 16, 16, 3))
    inputs = {"models": ["models", 0], "samples": ["encode", 0]}
    inputs |= {"seed": 7, "steps": 1, "kappa": 2.0, "predictor_mode": "sample"}
    prompt["inspect"] = {"class_type": "LPNSRInspect", "inputs": inputs}
    maps = graph.run(prompt, "inspect")
    assert maps.shape == (4, 64, 64, 3)  # 2 pictures, each with a prediction and noise
    prompt["decode"]["inputs"]["color_fix"] = "none"
    assert (maps[::2] - graph.run(prompt, "decode")).abs().max() < 1e-4
    # The noise map shows each value as a square, and 0 as medium grey.
    values = (maps[1, ::SCALE, ::SCALE] - 0.5) * 6
    assert abs(float(values.mean())) < 0.15
    assert abs(float(values.std()) - 1) < 0.15


def test_latents_that_want_different_decoding_are_not_mixed(graph: Graph) -> None:
    image = random_image(1, 16, 16, 3)
    prompt = prompt_of(graph, "LPNSR", image)
    for name, node in prompt_of(graph, "RSD", image).items():
        if name in ("models", "sample"):
            prompt[f"rsd {name}"] = node
    prompt["rsd sample"]["inputs"]["models"] = ["rsd models", 0]
    inputs = {"samples1": ["sample", 0], "samples2": ["rsd sample", 0]}
    prompt["both"] = {"class_type": "LatentBatch", "inputs": inputs}
    prompt["decode"]["inputs"]["samples"] = ["both", 0]
    with pytest.raises(PromptError, match="Latent Batch has added samples"):
        graph.run(prompt, "decode")


def test_a_predictor_beside_a_student_is_refused_by_the_loader(graph: Graph) -> None:
    prompt = prompt_of(graph, "SinSR", random_image(1, 8, 8, 3))
    prompt["models"]["inputs"]["noise_predictor"] = P
    with pytest.raises(PromptError, match=r"one-step student \(SinSR\).*Choose 'none'"):
        graph.run(prompt, "decode")


def test_a_student_of_another_kind_is_refused_by_name(server: Server, graph: Graph) -> None:
    name = "rsd_add.safetensors"
    header = FAMILY | {"noise_mode": "add"}
    save_file(denoiser_weights(), server.base / "models" / "lpnsr" / name, header)
    prompt = prompt_of(graph, "SinSR", random_image(1, 8, 8, 3))
    prompt["models"]["inputs"]["denoiser"] = name
    with pytest.raises(PromptError, match=rf"denoiser: {name}: it is an RSD student with .*'add'"):
        graph.run(prompt, "decode")
