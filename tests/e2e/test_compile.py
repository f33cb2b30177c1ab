"""The widget `torch_compile` of Load LPNSR Models. The networks are small, since compiling a kernel
takes seconds."""

import torch
from safetensors.torch import save_file

from lpnsr_impl.config import AutoencoderConfig
from tests.small import autoencoder_weights, denoiser_weights, unet_config

from .conftest import Graph, random_image


def test_compiled_networks_give_the_same_picture(graph: Graph) -> None:
    """The image with its margin has exactly the size for which kernels are compiled, so that
    compiled and normal networks use the same tile. The image is small, so that rounding is
    unlikely to change a VQ code of the untrained networks."""
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
