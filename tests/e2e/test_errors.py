"""Error messages of the pack's nodes in a real ComfyUI, which keeps working after an error."""

from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.host.server import PromptError, Server
from tests.small import denoiser_weights

from .conftest import LITE_DENOISER, WEIGHTS, Graph, random_image


def stage_change(node: str, **inputs: Any) -> Any:
    def change(prompt: dict[str, Any]) -> None:
        prompt[node]["inputs"].update(inputs)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            stage_change("models", denoiser="nothing.pth"),
            "denoiser: there is no file 'nothing.pth' in",
        ),
        (
            stage_change("models", precision="fp8"),
            "precision: 'fp8' is unknown, choose one of: auto, fp32",
        ),
        (stage_change("sample", predictor_mode="median"), "predictor_mode: 'median' is unknown"),
        (stage_change("decode", color_fix="lab"), "color_fix: 'lab' is unknown"),
        (stage_change("sample", steps=16), "Value 16 bigger than max of 15"),
        (
            stage_change("models", denoiser="autoencoder_vq_f4.pth"),
            "denoiser: autoencoder_vq_f4.pth: it looks like an autoencoder, expected a denoiser",
        ),
        (
            stage_change("models", noise_predictor=LITE_DENOISER),
            "it looks like a denoiser, expected a noise predictor",
        ),
        (
            stage_change("models", denoiser="resshift_realsrx4_s4_v3.pth", noise_predictor="none"),
            "These networks are of different families: Autoencoder is of 'lite-3', Denoiser is of "
            "'released'",
        ),
        (
            stage_change("models", noise_predictor="none"),
            "The noise predictor is switched on at t = 4, 3, 2, but noise_predictor is 'none'",
        ),
        (
            stage_change("encode", image=["image", 0]),
            "expected 1 of 64x48: exactly 4 times the size of the LR image",
        ),
    ],
)
def test_wrong_graphs_are_explained(graph: Graph, change: Any, message: str) -> None:
    prompt = graph.stages(random_image(1, 12, 16, 3))
    change(prompt)
    with pytest.raises(PromptError) as error:
        graph.run(prompt, "decode")
    assert message in str(error.value)


def test_a_foreign_latent_is_explained(graph: Graph) -> None:
    prompt = graph.stages(random_image(1, 12, 16, 3))
    prompt["empty"] = {
        "class_type": "EmptyLatentImage",
        "inputs": {"width": 64, "height": 64, "batch_size": 1},
    }
    prompt["sample"]["inputs"]["samples"] = ["empty", 0]
    with pytest.raises(PromptError, match=r"carries no LR image\. It is not from"):
        graph.run(prompt, "decode")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pictures_that_are_no_numbers_are_refused(graph: Graph, value: float) -> None:
    batch = random_image(3, 8, 8, 3)
    batch[1, 2, 3, 0] = value
    with pytest.raises(
        PromptError, match=r"image has NaN or infinite values \(first in image 1 of 3\)"
    ):
        graph.run(graph.upscale(batch), "upscale")


def test_two_channels_are_refused(graph: Graph) -> None:
    with pytest.raises(PromptError, match=r"image has shape \(1, 8, 8, 2\), expected an IMAGE"):
        graph.run(graph.upscale(random_image(1, 8, 8, 2)), "upscale")


def test_switches_that_have_no_effect_need_no_predictor(graph: Graph) -> None:
    prompt = graph.stages(random_image(1, 8, 8, 3), steps=1)
    prompt["models"] = graph.models(noise_predictor="none")
    assert graph.run(prompt, "decode").shape == (1, 32, 32, 3)


def test_a_replaced_file_is_loaded_again(server: Server, graph: Graph) -> None:
    """A prompt runs with a good file, then with a broken file under the same name, then with the
    good file again."""
    path = server.base / "models" / "lpnsr" / "mine.safetensors"
    good = (WEIGHTS / LITE_DENOISER).read_bytes()
    prompt = graph.stages(random_image(1, 8, 8, 3))
    prompt["models"] = graph.models(denoiser=path.name)
    path.write_bytes(good)
    expected = graph.run(prompt, "decode")
    save_file({**denoiser_weights(), "surplus": torch.zeros(1)}, path)
    with pytest.raises(
        PromptError, match=r"denoiser: mine\.safetensors: .*1 keys \(surplus\) unexpected"
    ):
        graph.run(prompt, "decode")
    path.write_bytes(good)
    assert torch.equal(graph.run(prompt, "decode"), expected)


def test_the_report_of_an_error_does_not_list_the_networks(graph: Graph) -> None:
    """ComfyUI sends the inputs of a failed node to the browser as text. The text for
    LPNSR_MODELS must be short."""
    prompt = graph.stages(random_image(1, 8, 8, 3))
    prompt["sample"]["inputs"]["steps"] = ["number", 0]
    prompt["number"] = {"class_type": "PrimitiveInt", "inputs": {"value": 9}}
    with pytest.raises(PromptError, match="steps is 9, but this denoiser has 4 steps") as error:
        graph.run(prompt, "decode")
    assert len(str(error.value.details["current_inputs"]["models"])) < 1000
