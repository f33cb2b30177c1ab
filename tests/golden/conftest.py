"""Full-size networks with pseudo-random weights from `fill`, built once per session."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lpnsr_impl import load_autoencoder, load_denoiser, load_noise_predictor
from lpnsr_impl.accelerate import accelerate, has_fast_bf16, restore
from lpnsr_impl.models import Autoencoder, Denoiser, NoisePredictor

from .fill import fill

HERE = Path(__file__).parent
CPU = torch.device("cpu")
HAS_ARITHMETIC = {
    torch.bfloat16: has_fast_bf16(CPU),
    torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported(),
}
"""Whether this CPU computes with a half-precision dtype natively, without emulation."""


def pytest_report_header() -> list[str]:
    return [
        f"{dtype} is checked on networks of full size"
        if native
        else f"{dtype} is checked on the bundled networks, as this CPU only emulates it"
        for dtype, native in HAS_ARITHMETIC.items()
    ]


@pytest.fixture(scope="session")
def keys() -> dict[str, dict[str, list[int]]]:
    """Shapes of the tensors in the three released files: {file: {tensor: shape}}."""
    return json.loads((HERE / "checkpoint_keys.json").read_text())


@pytest.fixture(scope="session")
def goldens() -> dict[str, Tensor]:
    """Expected outputs by name, computed with an independent implementation."""
    return load_file(HERE / "goldens.safetensors")


@pytest.fixture(scope="session")
def autoencoder(keys: dict) -> Autoencoder:
    network = load_autoencoder(fill(keys["autoencoder_vq_f4"]))
    accelerate(network, CPU)
    return network


@pytest.fixture(scope="session")
def denoiser(keys: dict) -> Denoiser:
    network = load_denoiser(fill(keys["resshift_denoiser"]))
    accelerate(network, CPU)
    return network


@pytest.fixture(scope="session")
def noise_predictor(keys: dict) -> NoisePredictor:
    network = load_noise_predictor(fill(keys["noise_predictor"]))
    accelerate(network, CPU)
    return network


@pytest.fixture(params=["accelerated", "plain"])
def way(
    request: pytest.FixtureRequest,
    autoencoder: Autoencoder,
    denoiser: Denoiser,
    noise_predictor: NoisePredictor,
):
    """Run a test twice: with accelerated networks, and with plain ones."""
    networks = (autoencoder, denoiser, noise_predictor)
    if request.param == "plain":
        for network in networks:
            restore(network)
    yield
    for network in networks:
        accelerate(network, CPU)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield
