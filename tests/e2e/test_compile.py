"""`torch_compile` of Load LPNSR Models. Small networks, since compiling a kernel takes seconds."""

import torch
from safetensors.torch import save_file

from lpnsr_impl.config import AutoencoderConfig
from tests.small import autoencoder_weights, denoiser_weights, unet_config

from .conftest import Graph, random_image


def test_compiled_networks_give_the_same_picture(graph: Graph) -> None:
    """With its margin, the image has exactly the size that the kernels are compiled for, so that
    both runs use the same tile. It is small, since rounding may change codes of these untrained
    networks."""
    config = AutoencoderConfig(level_channels=(32, 32, 32), num_res_blocks=1, num_codes=64)
    small = {
        "autoencoder": autoencoder_weights(config),
        "denoiser": denoiser_weights(unet_config(level_channels=(32,))),
    }
    for part, weights in small.items():
        save_file(weights, graph.server.base / "models" / "lpnsr" / f"small_{part}.safetensors")
    names = {part: f"small_{part}.safetensors" for part in small} | {"noise_predictor": "none"}
    switches = {f"predictor_t{t}": False for t in (4, 3, 2)}
    pictures = []
    for compiled in (False, True):
        prompt = graph.stages(random_image(1, 24, 24, 3), steps=2, tile_size=64, **switches)
        for node in ("encode", "decode"):
            prompt[node]["inputs"]["tile_size"] = 64
        prompt["models"] = graph.models(**names, torch_compile=compiled)
        pictures.append(graph.run(prompt, "decode"))
    torch.testing.assert_close(*pictures, atol=1e-3, rtol=0)
    assert not torch.equal(*pictures), "the networks were not compiled"
