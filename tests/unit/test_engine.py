"""The engine plans by memory it is told of, and goes on with less where that was too much."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from lpnsr_impl import load_autoencoder, load_denoiser
from lpnsr_impl.accelerate import accelerate, set_precision
from lpnsr_impl.config import UNetConfig
from lpnsr_impl.engine.memory import PlainMemory, Resident
from lpnsr_impl.engine.progress import Call, Progress
from lpnsr_impl.engine.tiles import Tiles, Tiling, Work
from lpnsr_impl.engine.upscaler import Method, Upscaler
from lpnsr_impl.files.folders import find_weights
from lpnsr_impl.pictures.picture import Picture
from lpnsr_impl.pictures.tiling import TilePlan
from tests.bench.counting import FAKE, counted

MB = 1 << 20
CONFIG = UNetConfig()  # windows of 64 pixels at the deepest level


class Limited(PlainMemory):
    """A GPU with so much memory: `everything`, and `unused` by other models."""

    def __init__(self, everything: float, unused: float) -> None:
        self.everything, self.unused = everything, unused
        self.asked: list[float] = []

    def budget(self, networks: Sequence[Any]) -> float:
        return self.everything

    def spare(self, networks: Sequence[Any]) -> float:
        return self.unused

    def load(self, networks: Sequence[Any], activations: float) -> None:
        self.asked.append(activations)


class Told(Progress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.plans: list[str] = []
        self.texts: list[str] = []

    def plan(self, text: str) -> None:
        self.plans.append(text)

    def advance(self, work: float, text: str) -> None:
        super().advance(work, text)
        self.texts.append(text)


def tiles(
    memory: Limited, size: tuple[int, int], tiling: Tiling | None = None, *,
    pictures: int = 1, device: str = "cuda", fixed: bool = False, progress: Progress | None = None,
) -> Tiles:  # fmt: skip
    """A byte for each position of a tile."""
    network = Resident(torch.nn.Identity(), torch.device(device))
    work = Work([network], lambda h, w: h * w, pictures, size, CONFIG, fixed=fixed)
    return Tiles(work, memory, tiling or Tiling(), progress or Progress())


def done(tiles: Tiles, largest: int, calls: Sequence[Call] = (Call("x"),)) -> list[slice]:
    """Run to the end where only so many positions fit at once; the pictures that went together."""

    def function(pictures: slice, plan: TilePlan, on_tile: Any) -> Tensor:
        for _ in calls:
            if plan.batch * plan.tile[0] * plan.tile[1] > largest:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            for _ in range((pictures.stop - pictures.start) * len(plan)):
                on_tile()
        return torch.zeros(())

    return [pictures for pictures, _ in tiles.run(function, calls)]


def test_the_largest_tile_that_fits_is_taken_even_if_others_must_make_room() -> None:
    memory = Limited(everything=200 * 200, unused=100)
    plan = tiles(memory, (512, 512)).plan
    assert plan.tile == (192, 192)
    assert plan.batch == 1
    assert memory.asked == [192 * 192]


def test_together_go_as_many_as_fit_while_others_stay() -> None:
    memory = Limited(everything=1000 * MB, unused=3.5 * 128 * 128)
    assert tiles(memory, (128, 128), pictures=64).plan.batch == 3
    assert memory.asked == [3 * 128 * 128]
    assert tiles(memory, (128, 128), pictures=2).plan.batch == 2
    assert tiles(memory, (128, 128), pictures=64, device="cpu").plan.batch == 1


def test_a_clip_goes_through_sixteen_frames_at_a_time() -> None:
    told, memory = Told(), Limited(1000 * MB, 1000 * MB)
    clip = tiles(memory, (128, 128), pictures=64, progress=told)
    assert done(clip, MB) == [slice(i, i + 16) for i in range(0, 64, 16)]
    assert told.texts[0] == "pictures 1-16/64, x, tile 1/16"
    assert told.done == pytest.approx(64)


def test_a_picture_in_many_tiles_goes_alone() -> None:
    memory = Limited(1000 * MB, 1000 * MB)
    some = tiles(memory, (1024, 1024), pictures=3)
    assert (len(some.plan), some.plan.batch) == (25, 4)
    assert done(some, MB) == [slice(0, 1), slice(1, 2), slice(2, 3)]


def test_less_goes_together_and_then_tiles_halve_with_their_overlap() -> None:
    """Once an overlap of 512 stayed with tiles of 512: 37,249 of them."""
    told, memory = Told(), Limited(1000 * MB, 5 * MB)
    large = tiles(memory, (2048, 2048), Tiling(1024, 512), progress=told)
    assert len(large.plan) == 9
    assert done(large, 512 * 512) == [slice(0, 1)]
    assert (len(large.plan), large.plan.tile) == (49, (512, 512))
    assert told.done == pytest.approx(1), "work that was lost does not count"


def test_where_the_smallest_tile_does_not_fit_it_is_said() -> None:
    small = tiles(Limited(MB, MB), (512, 512))
    with pytest.raises(MemoryError, match="Out of memory even with tiles of 64x64 LR pixels"):
        done(small, 10)


def test_other_errors_are_not_taken_for_lack_of_memory() -> None:
    def fail(*_: Any) -> Tensor:
        raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError, match="size mismatch"):
        list(tiles(Limited(MB, MB), (64, 64)).run(fail, [Call("x")]))


def test_a_folder_of_photos_needs_few_kernels() -> None:
    memory, sizes = Limited(1000 * MB, 1000 * MB), range(100, 900, 7)
    plans = [tiles(memory, (size, 3 * size // 2), fixed=True).plan for size in sizes]
    assert {(plan.tile, plan.batch) for plan in plans} == {
        ((128, 256), 1), ((256, 256), 1)
    }  # fmt: skip


def test_three_megapixels_fit_into_three_gigabytes() -> None:
    """Of a GPU, counted without one. Whole results stay in main memory where they are too large:
    in fp32 this one has 0.6 GB, and finishing it takes five times that."""
    autoencoder = load_autoencoder(find_weights("lpnsr_lite_autoencoder.safetensors"))
    denoiser = load_denoiser(find_weights("lpnsr_lite_denoiser.safetensors"))
    for network in (autoencoder, denoiser):
        set_precision(network, torch.float16, torch.float16)
        accelerate(network, torch.device("cuda"))
        for module in network.modules():
            for name, parameter in module.named_parameters(recurse=False):
                with FAKE:
                    there = torch.empty(parameter.shape, dtype=parameter.dtype, device="cuda")
                setattr(module, name, torch.nn.Parameter(there, requires_grad=False))
            for name, buffer in module.named_buffers(recurse=False):
                with FAKE:
                    there = torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda")
                setattr(module, name, there)
    memory = Limited(0.7 * 3e9, 0.7 * 3e9)
    upscaler = Upscaler(autoencoder, denoiser, None, {}, torch.device("cuda"), 512, memory)
    with FAKE:
        lr = Picture(torch.zeros(1, 3, 1000, 3000))
    method, results = Method("m", steps=1), []
    counts = counted(lambda _: results.append(upscaler.upscale(lr, method)))
    assert results[0].shape == (1, 3, 4000, 12000)
    assert results[0].device.type == "cpu"
    assert 0.5e9 < counts.peak < 3e9


class Nearest:
    """An upscale model that runs out of memory above a side."""

    scale = 4

    def __init__(self, largest: int) -> None:
        self.largest = largest

    def __call__(self, x: Tensor) -> Tensor:
        if max(x.shape[2:]) > self.largest:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return x.repeat_interleave(4, 2).repeat_interleave(4, 3)


def started(largest: int) -> Tensor:
    """The start of a picture of 100x150 pixels by such a model."""
    networks: Any = (None, None, None, {"nearest": Nearest(largest)})
    lr = Picture(torch.rand(1, 3, 100, 150, generator=torch.Generator().manual_seed(1)))
    return Upscaler(*networks).upscale(lr, Method("m", "nearest", steps=0))


def test_tiles_of_upscale_models_halve_too_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert torch.allclose(started(64), started(256), atol=1e-5)
    assert "the upscale model goes on with tiles of 64" in caplog.text
    with pytest.raises(MemoryError, match="tiles of 64x64 pixels, the smallest for an upscale"):
        started(32)
