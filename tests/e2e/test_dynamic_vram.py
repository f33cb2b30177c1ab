"""The pack with dynamic VRAM, in which ComfyUI's layers have no weights until a file is loaded.
ComfyUI enables dynamic VRAM on NVIDIA GPUs; the probe pack enables it without a GPU."""

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.host.install import comfyui_path
from tests.host.server import Server, load_api_workflow, running

from .conftest import Graph, random_image

pytestmark = pytest.mark.skipif(
    not (comfyui_path() / "comfy" / "memory_management.py").exists(),
    reason="this ComfyUI is older than dynamic VRAM",
)


@pytest.fixture(scope="module")
def dynamic(
    tmp_path_factory: pytest.TempPathFactory, server_options: dict[str, Any]
) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LPNSR_PROBE_DYNAMIC_VRAM", "1")
        with running(tmp_path_factory.mktemp("dynamic"), **server_options) as server:
            yield server


def test_the_quick_start_gives_its_picture(server: Server, dynamic: Server) -> None:
    prompt = load_api_workflow("LPNSR quick start")
    pictures = []
    for each in (server, dynamic):
        (file,) = each.images(each.run(prompt))
        pictures.append(np.asarray(Image.open(BytesIO(file))))
    np.testing.assert_array_equal(*pictures)


def test_released_files_load(dynamic: Server) -> None:
    graph = Graph(dynamic)
    prompt = graph.stages(random_image(1, 16, 16, 3), steps=2)
    prompt["models"] = graph.models(
        autoencoder="autoencoder_vq_f4.pth",
        denoiser="resshift_realsrx4_s4_v3.pth",
        noise_predictor="noise_predictor.pth",
    )
    assert graph.run(prompt, "decode").shape == (1, 64, 64, 3)


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_offloaded_networks_run_on_a_gpu(dynamic: Server, precision: str) -> None:
    graph = Graph(dynamic)
    prompt = graph.stages(random_image(1, 16, 16, 3))
    inputs = {"models": ["models", 0], "precision": precision}
    prompt["offloaded"] = {"class_type": "ProbeOffloaded", "inputs": inputs}
    prompt["sample"]["inputs"]["models"] = ["offloaded", 0]
    assert graph.run(prompt, "decode").shape == (1, 64, 64, 3)
