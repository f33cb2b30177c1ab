"""The `vae` output of Load LPNSR Models in ComfyUI's VAE nodes, alone and with LPNSR Sample."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lpnsr_impl import load_autoencoder
from lpnsr_impl.accelerate import set_precision
from lpnsr_impl.pictures.images import to_01, to_pm1
from tests.host.server import PromptError

from .conftest import WEIGHTS, Graph, random_image

TILES = {"tile_size": 128, "overlap": 32, "temporal_size": 64, "temporal_overlap": 8}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def vae_graph(graph: Graph, image: Tensor, tiled: bool = False, **models: str) -> dict[str, Any]:
    """Make a prompt that encodes and decodes with ComfyUI's VAE nodes and our autoencoder."""
    suffix, sizes = ("Tiled", TILES) if tiled else ("", {})
    vae = {"vae": ["models", 1]}
    return {
        "image": graph.picture(image),
        "models": graph.models(**models),
        "encode": {
            "class_type": f"VAEEncode{suffix}",
            "inputs": {**vae, "pixels": ["image", 0], **sizes},
        },
        "decode": {
            "class_type": f"VAEDecode{suffix}",
            "inputs": {**vae, "samples": ["encode", 0], **sizes},
        },
    }


def expected_results(image: Tensor, precision: str) -> tuple[Tensor, Tensor]:
    """Encode and decode with `lpnsr_impl` alone. image: [B,H,W,3] -> latent [B,3,h,w], decoded
    picture [B,H,W,3]"""
    autoencoder = load_autoencoder(WEIGHTS / "lpnsr_lite_autoencoder.safetensors")
    set_precision(autoencoder, DTYPES[precision], DTYPES[precision])
    z = autoencoder.encode(to_pm1(image.movedim(-1, 1)))
    return z, to_01(autoencoder.decode(z)).movedim(1, -1)


@pytest.mark.parametrize("precision", DTYPES)
def test_core_encode_and_decode_are_our_autoencoder(graph: Graph, precision: str) -> None:
    image = random_image(2, 48, 64, 3)
    prompt = vae_graph(graph, image, precision=precision)
    z, picture = expected_results(image, precision)
    bar = {"fp32": 1e-4, "bf16": 2e-2}[precision]
    torch.testing.assert_close(graph.run(prompt, "encode", "latent"), z, atol=bar, rtol=0)
    result = graph.run(prompt, "decode")
    assert (result - picture).abs().mean() < bar


def test_tiled_nodes_are_near(graph: Graph) -> None:
    image = random_image(1, 160, 192, 3)
    prompt = vae_graph(graph, image, tiled=True)
    whole = vae_graph(graph, image)
    latent, expected = (graph.run(p, "encode", "latent") for p in (prompt, whole))
    assert latent.shape == expected.shape == (1, 3, 40, 48)
    assert (latent - expected).abs().mean() < 0.1 * expected.abs().mean()
    tiles, one = graph.run(prompt, "decode"), graph.run(whole, "decode")
    assert tiles.shape == one.shape == image.shape
    assert 0 < (tiles - one).abs().mean() < 0.05


def test_other_sizes_are_cropped_in_the_middle_as_core_does(graph: Graph) -> None:
    image = random_image(1, 23, 34, 3)
    cropped = image[:, 1:21, 1:33]
    assert torch.equal(
        graph.run(vae_graph(graph, image), "decode"), graph.run(vae_graph(graph, cropped), "decode")
    )


def test_alpha_is_left_out_as_core_does(graph: Graph) -> None:
    image = random_image(1, 16, 16, 4)
    rgb = graph.run(vae_graph(graph, image[..., :3]), "decode")
    assert torch.equal(graph.run(vae_graph(graph, image), "decode"), rgb)


@pytest.mark.parametrize("tiled", [False, True])
def test_each_picture_of_a_batch_is_as_it_is_alone(graph: Graph, tiled: bool) -> None:
    batch = torch.cat([random_image(1, 48, 64, 3, seed=i) for i in range(3)])
    result = graph.run(vae_graph(graph, batch, tiled), "decode")
    for image, expected in zip(batch, result, strict=True):
        (alone,) = graph.run(vae_graph(graph, image[None], tiled), "decode")
        torch.testing.assert_close(alone, expected, atol=1e-4, rtol=0)


def test_inpainting_nodes_of_core_take_it(graph: Graph) -> None:
    """ComfyUI's inpainting nodes read the VAE's compression ratio, and crop the image to a multiple
    of it."""
    image = random_image(2, 42, 64, 3)
    prompt = vae_graph(graph, image)
    prompt["mask"] = {
        "class_type": "SolidMask",
        "inputs": {"value": 0.0, "width": 64, "height": 42},
    }
    inputs = {**prompt["encode"]["inputs"], "mask": ["mask", 0], "grow_mask_by": 0}
    prompt["encode"] = {"class_type": "VAEEncodeForInpaint", "inputs": inputs}
    whole = vae_graph(graph, image[:, 1:41])
    expected = graph.run(whole, "decode")
    assert (graph.run(prompt, "decode") - expected).abs().mean() < 0.01


def test_it_has_all_that_the_methods_of_the_host_read(graph: Graph) -> None:
    prompt = vae_graph(graph, random_image(1, 8, 8, 3))
    prompt["same"] = {"class_type": "ProbeVAEAttributes", "inputs": {"vae": ["models", 1]}}
    prompt["encode"]["inputs"]["vae"] = ["same", 0]
    assert graph.run(prompt, "decode").shape == (1, 8, 8, 3)


def test_no_branch_of_a_vae_with_weights_is_needed(graph: Graph) -> None:
    """The pack creates the VAE without the state dict {"pixel_space_vae": ...}, for which ComfyUI
    0.45 raises an error."""
    assert graph.run(closed_graph(graph, "pixel_space_vae"), "decode").shape == (1, 8, 8, 3)


def test_a_host_that_refuses_the_vae_loads_the_models(graph: Graph) -> None:
    closed = closed_graph(graph, "")
    prompt = graph.stages(random_image(1, 8, 8, 3), steps=1)
    prompt["models"] = closed["models"]
    assert graph.run(prompt, "decode").shape == (1, 32, 32, 3)
    refused = r"^VAEEncode: The vae output of Load LPNSR Models does not work .*\(state dict"
    with pytest.raises(PromptError, match=refused):
        graph.run(closed, "decode")


def closed_graph(graph: Graph, closed: str) -> dict[str, Any]:
    """Make the prompt of `vae_graph` with `ProbeClosedVAE`, in which ComfyUI's VAE class refuses
    state dicts with the key `closed`, or all if `closed` is empty."""
    prompt = vae_graph(graph, random_image(1, 8, 8, 3))
    inputs = {**prompt["models"]["inputs"], "closed": closed}
    inputs.pop("torch_compile", None)
    prompt["models"] = {"class_type": "ProbeClosedVAE", "inputs": inputs}
    return prompt


def test_vae_and_models_are_one_in_memory(graph: Graph) -> None:
    """`ProbeSharedWeights` raises an error if VAE and models do not share patcher and weights."""
    prompt = graph.stages(random_image(1, 8, 8, 3), steps=1)
    both = {"models": ["models", 0], "vae": ["models", 1]}
    prompt["same"] = {"class_type": "ProbeSharedWeights", "inputs": both}
    prompt["sample"]["inputs"]["models"] = ["same", 0]
    assert graph.run(prompt, "decode").shape == (1, 32, 32, 3)


def test_a_latent_of_another_vae_is_explained(graph: Graph) -> None:
    prompt = vae_graph(graph, random_image(1, 8, 8, 3))
    size = {"width": 64, "height": 64, "batch_size": 1}
    prompt["empty"] = {"class_type": "EmptyLatentImage", "inputs": size}
    prompt["decode"]["inputs"]["samples"] = ["empty", 0]
    with pytest.raises(PromptError, match=r"decode got \(1, 4, 8, 8\), expected \[B,3,h,w\]"):
        graph.run(prompt, "decode")


# Core VAE nodes together with the pack's nodes


def test_core_nodes_can_stand_for_our_encode_and_decode(graph: Graph) -> None:
    """Results with core VAE nodes differ slightly, since only the pack's nodes add a margin. LPNSR
    Sample needs `lr_image`, since latents of core nodes carry no LR image."""
    image = random_image(1, 64, 32, 3)
    prompt = graph.stages(image, steps=1)
    prompt["decode"]["inputs"]["color_fix"] = "none"
    expected = graph.run(prompt, "decode")
    vae = {"vae": ["models", 1]}
    prompt["encode"] = {"class_type": "VAEEncode", "inputs": {**vae, "pixels": ["start", 0]}}
    prompt["sample"]["inputs"]["lr_image"] = ["image", 0]
    prompt["core"] = {"class_type": "VAEDecode", "inputs": {**vae, "samples": ["sample", 0]}}
    for node in ("decode", "core"):
        assert (graph.run(prompt, node) - expected).abs().mean() < 0.02


def test_sample_takes_a_core_latent_of_any_size(graph: Graph) -> None:
    image = random_image(1, 13, 10, 3)
    prompt = graph.stages(image, steps=1)
    expected = graph.run(prompt, "decode")
    inputs = {"vae": ["models", 1], "pixels": ["start", 0]}
    prompt["encode"] = {"class_type": "VAEEncode", "inputs": inputs}
    prompt["sample"]["inputs"]["lr_image"] = ["image", 0]
    result = graph.run(prompt, "decode")
    assert result.shape == expected.shape == (1, 52, 40, 3)
    assert (result - expected).abs().mean() < 0.05
