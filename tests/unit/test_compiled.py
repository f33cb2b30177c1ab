"""torch.compile captures each network as a single graph. The compiler backend is a fake here;
`tests/e2e/test_compile.py` tests real kernels."""

import gc
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lpnsr_impl import load_autoencoder, load_denoiser, load_noise_predictor
from lpnsr_impl.accelerate import check_compiler
from lpnsr_impl.accelerate.compiled import compile_network
from tests.golden.fill import noise
from tests.small import autoencoder_weights, denoiser_weights, predictor_weights

pytestmark = pytest.mark.slow

PACK = Path(__file__).parents[2]


def rand(name: str, *shape: int) -> Tensor:
    return noise(f"compiled.{name}", shape)


@torch.inference_mode()
def compare(network: Any, *calls: Callable[[], Tensor]) -> None:
    """Assert that torch.compile captures a single graph for all calls, and that the results are
    those of the uncompiled network."""
    expected = [call() for call in calls]
    graphs: list[Any] = []
    compile_network(network, backend=lambda graph, _: graphs.append(graph) or graph.forward)
    for call, wanted in zip(calls, expected, strict=True):
        torch.testing.assert_close(call(), wanted, atol=1e-4, rtol=0)
    assert len(graphs) == 1


def test_a_denoiser() -> None:
    denoiser = load_denoiser(denoiser_weights())
    x, lr = rand("x", 2, 1, 3, 32, 16), rand("lr", 1, 3, 32, 16)
    compare(denoiser, lambda: denoiser(x[0], 3, lr), lambda: denoiser(x[1], 1, lr))


def test_a_noise_predictor() -> None:
    predictor = load_noise_predictor(predictor_weights())
    x, lr = rand("x", 2, 1, 3, 16, 16), rand("lr", 1, 3, 16, 16)
    compare(predictor, *(lambda i=i: predictor(x[i], x[1 - i], lr, 3 - i)[0] for i in (0, 1)))


def test_an_encoder() -> None:
    autoencoder = load_autoencoder(autoencoder_weights())
    compare(
        autoencoder, *(lambda x=x: autoencoder.encode(x) for x in rand("image", 2, 1, 3, 64, 48))
    )


def test_a_decoder() -> None:
    autoencoder = load_autoencoder(autoencoder_weights())
    compare(
        autoencoder, *(lambda z=z: autoencoder.decode(z) for z in rand("latent", 2, 1, 3, 16, 12))
    )


@torch.inference_mode()
def test_every_size_is_compiled() -> None:
    """Nine image sizes are compiled, although PyTorch's default recompile limit is 8."""
    autoencoder, graphs = load_autoencoder(autoencoder_weights()), list[Any]()
    compile_network(autoencoder, backend=lambda graph, _: graphs.append(graph) or graph.forward)
    for i in range(1, 10):
        autoencoder.encode(rand("image", 1, 3, 8, 8 * i))
    assert len(graphs) == 9


def test_a_compiled_network_goes_when_it_is_let_go() -> None:
    """A compiled network is freed with its last reference, without the garbage collector, so that
    the host can unload it."""
    autoencoder = load_autoencoder(autoencoder_weights())
    compile_network(autoencoder, backend=lambda graph, _: graph.forward)
    with torch.inference_mode():
        autoencoder.encode(rand("image", 1, 3, 16, 16))
    alive = weakref.ref(autoencoder)
    gc.disable()
    try:
        del autoencoder
        assert alive() is None
    finally:
        gc.enable()


def test_torch_dynamo_waits_until_something_is_compiled() -> None:
    """torch._dynamo is not imported before a network is compiled, since the import would add a
    second and 150 MB to every start of ComfyUI."""
    code = """
import sys
import torch
import lpnsr_impl
from lpnsr_impl.accelerate import accelerate
from lpnsr_impl.models import Autoencoder, Denoiser
from tests.small import AUTOENCODER, UNET
autoencoder, denoiser = Autoencoder(AUTOENCODER), Denoiser(UNET)
x = torch.zeros(1, 3, 16, 16)
with torch.inference_mode():
    for _ in range(2):
        autoencoder.decode(denoiser(autoencoder.encode(torch.zeros(1, 3, 64, 64)), 1, x))
        accelerate(autoencoder, torch.device("cpu"))
        accelerate(denoiser, torch.device("cpu"))
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=PACK, check=False).returncode == 0


class WrappedError(Exception):
    """Imitates the exception in which torch.compile wraps the error of a backend."""

    inner_exception = RuntimeError("no compiler\nand a long trace")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("no compiler\nand a long trace"), "no compiler"),
        (WrappedError("backend='inductor' raised:"), "no compiler"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_without_a_compiler_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def broken(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(torch, "compile", lambda _: broken)
    with pytest.raises(RuntimeError, match=rf"for cpu: {reason}\. Install a C\+\+ compiler, or"):
        check_compiler(torch.device("cpu"))
