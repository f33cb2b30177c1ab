"""The upscaler on a GPU, tested without one: FakeTensors have a device but no values."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lpnsr_impl import load_denoiser
from lpnsr_impl.engine.memory import Memory
from lpnsr_impl.jobs.upscaler import Method, Upscaler
from lpnsr_impl.models import Autoencoder
from lpnsr_impl.pictures.picture import Picture
from tests.bench.counting import FAKE
from tests.small import AUTOENCODER, denoiser_weights

CUDA = torch.device("cuda")


class Plenty(Memory):
    """Memory in which everything fits."""

    def free(self, networks: Sequence[Any]) -> float:
        return 1e12

    def free_for_results(self) -> int:
        return 10**12


class Card(TorchDispatchMode):
    """A fake GPU that runs out of memory on tensors larger than `limit` bytes."""

    def __init__(self, limit: float = float("inf")) -> None:
        super().__init__()
        self.limit = limit

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            too_large = isinstance(x, Tensor) and x.untyped_storage().nbytes() > self.limit
            if too_large and x.device.type == "cuda":
                raise torch.OutOfMemoryError("CUDA out of memory.")
        return result


def move_to_card(network: nn.Module) -> None:
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            with FAKE:
                there = torch.empty(parameter.shape, device=CUDA)
            setattr(module, name, nn.Parameter(there, requires_grad=False))
        for name, buffer in module.named_buffers(recurse=False):
            with FAKE:
                there = torch.empty(buffer.shape, dtype=buffer.dtype, device=CUDA)
            setattr(module, name, there)


@pytest.fixture
def calls() -> list[tuple[str, int]]:
    """List of the calls of networks: (name, number of tiles)."""
    return []


def watch(calls: list[tuple[str, int]], name: str) -> Callable[..., None]:
    return lambda _, inputs: calls.append((name, len(inputs[0])))


def make_upscaler(
    calls: list[tuple[str, int]], device: torch.device, upscale_models: Any = None
) -> Upscaler:
    """Make an upscaler with small networks, and record their calls in `calls`. The autoencoder has
    no attention."""
    config = replace(AUTOENCODER, level_channels=(32, 32, 32), attention=False)
    autoencoder = Autoencoder(config).eval()
    denoiser = load_denoiser(denoiser_weights())
    parts = {"encode": autoencoder.encoder, "sample": denoiser, "decode": autoencoder.decoder}
    for name, part in parts.items():
        part.register_forward_pre_hook(watch(calls, name))
    if device == CUDA:
        move_to_card(autoencoder)
        move_to_card(denoiser)
    return Upscaler(autoencoder, denoiser, None, upscale_models or {}, device, memory=Plenty())


ONE_STEP = Method("m", steps=1, color_fix="none")


def test_decoding_goes_on_in_main_memory(calls: list[tuple[str, int]]) -> None:
    """If GPU memory runs out, decoding continues with the result in main memory. Here the result of
    12.6 MB does not fit on the fake GPU, but the activations for a tile of 64x64 do."""
    upscaler = make_upscaler(calls, CUDA)
    with FAKE, Card(limit=12e6):
        lr = Picture(torch.zeros(1, 3, 256, 256))
        result = upscaler.upscale(lr, ONE_STEP)
    assert result.shape == (1, 3, 1024, 1024)
    assert result.device.type == "cpu"


def test_a_clip_goes_through_one_network_after_the_other(calls: list[tuple[str, int]]) -> None:
    """All frames of a clip go through one network before the next network runs, so that each
    network is loaded only once."""

    class Nearest:
        scale = 4

        def __call__(self, x: Tensor) -> Tensor:
            calls.append(("start", len(x)))
            return x.repeat_interleave(4, 2).repeat_interleave(4, 3)

    upscaler = make_upscaler(calls, CUDA, {"nearest": Nearest()})
    with FAKE, Card():
        clip = Picture(torch.zeros(9, 3, 512, 512))
        result = upscaler.upscale(clip, replace(ONE_STEP, start="nearest"))
    assert result.shape == (9, 3, 2048, 2048)
    assert [name for name, _ in groupby(name for name, _ in calls)] == [
        "start",
        "encode",
        "sample",
        "decode",
    ]


def test_small_pictures_share_calls_on_a_cpu(calls: list[tuple[str, int]]) -> None:
    """Small pictures are processed in batches even on a CPU. One by one, 20 pictures of 16x16 took
    five times as long as a single one with as many pixels."""
    lr = Picture(torch.rand(20, 3, 16, 16))
    result = make_upscaler(calls, torch.device("cpu")).upscale(lr, ONE_STEP)
    assert result.shape == (20, 3, 64, 64)
    for name in ("encode", "sample", "decode"):
        sizes = [size for called, size in calls if called == name]
        assert sum(sizes) == 20
        assert len(sizes) <= 5
