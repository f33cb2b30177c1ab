"""The engine plans tiles and batches by free memory, and retries with smaller ones when memory runs
out."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lpnsr_impl import load_autoencoder, load_denoiser
from lpnsr_impl.accelerate import accelerate, set_precision
from lpnsr_impl.config import UNetConfig
from lpnsr_impl.engine import tiled
from lpnsr_impl.engine.engine import Engine
from lpnsr_impl.engine.finish import Finish, Region
from lpnsr_impl.engine.memory import Managed, Memory
from lpnsr_impl.engine.progress import Progress
from lpnsr_impl.engine.tiled import MARGIN, Tiles, Tiling
from lpnsr_impl.files.folders import find_weights
from lpnsr_impl.jobs.upscaler import Method, Upscaler, load_upscaler
from lpnsr_impl.method.sampler import Sampling
from lpnsr_impl.pictures.picture import Picture
from lpnsr_impl.pictures.target import Target
from tests.bench.counting import FAKE, counted

MB = 1 << 20


class Limited(Memory):
    """Memory with fixed sizes: `free` now, and `available` after evicting other models."""

    def __init__(self, available: float, free: float) -> None:
        self.limits = available, free
        self.loads: list[float] = []

    def available(self, networks: Sequence[Any]) -> float:
        return self.limits[0]

    def free(self, networks: Sequence[Any]) -> float:
        return self.limits[1]

    def load(self, networks: Sequence[Any], activations: float) -> None:
        self.loads.append(activations)


class Recorder(Progress):
    """Records the progress updates."""

    def __init__(self) -> None:
        self.plans: list[str] = []
        self.details: list[str] = []
        self.texts: list[str] = []

    def plan(self, summary: str, details: str) -> None:
        self.plans.append(summary)
        self.details.append(details)

    def advance(self, work: float, text: str) -> None:
        super().advance(work, text)
        self.texts.append(text)


@pytest.fixture(autouse=True)
def one_byte_per_position(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled, "activation_bytes", lambda network, h, w, device, encoding: h * w)


def make_tiles(
    memory: Limited, size: tuple[int, int], tiling: Tiling | None = None, *, images: int = 1,
    fixed: bool = False, progress: Progress | None = None, largest_tile: int = 256,
) -> Tiles:  # fmt: skip
    """Make the `Tiles` for a U-Net whose attention windows cover 64 LR pixels at the deepest level.
    The device is "meta", as a stand-in for a GPU."""
    network = SimpleNamespace(config=UNetConfig(largest_tile=largest_tile), compiled=fixed)
    managed: Any = Managed(network, torch.device("meta"))  # type: ignore[type-var]
    return Tiles(
        [managed],
        Picture(torch.empty(images, 3, *size)),
        memory,
        tiling or Tiling(),
        progress or Recorder(),
    )


def run(tiles: Tiles, largest: int, text: str = "x") -> list[slice]:
    """Process all tiles with a function that runs out of memory on inputs of more than `largest`
    positions (batch * height * width).

    Returns:
        The groups of images that were processed together, as slices of the batch.
    """

    def function(x: Tensor) -> Tensor:
        if len(x) * x.shape[2] * x.shape[3] > largest:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return x

    groups: list[slice] = []
    x = torch.empty(tiles._shape[0], 3, *tiles._shape[1:], device="meta")
    for images in tiles.groups():
        tiles(function, x[images], text=text)
        groups.append(images)
    return groups


def test_the_largest_tile_that_fits_is_taken_even_if_others_are_evicted() -> None:
    memory = Limited(available=208 * 208, free=100)
    tiles = make_tiles(memory, (512, 512))
    assert (tiles.plan.rows.tile, tiles.plan.columns.tile, tiles.plan.batch) == (200, 200, 1)
    list(tiles.groups())
    assert memory.loads == [200 * 200]


def test_a_family_may_want_smaller_tiles() -> None:
    memory = Limited(MB, MB)
    assert len(make_tiles(memory, (128, 128)).plan) == 1
    assert len(make_tiles(memory, (128, 128), largest_tile=64).plan) == 9
    assert len(make_tiles(memory, (128, 128), Tiling(128), largest_tile=64).plan) == 1


def test_the_largest_tile_of_the_command_line_is_no_choice_of_a_tile() -> None:
    assert len(make_tiles(Limited(136**2, MB), (256, 256), Tiling(max_tile=256)).plan) > 1
    assert len(make_tiles(Limited(136**2, MB), (256, 256), Tiling(256)).plan) == 1


def test_together_go_as_many_as_fit_without_evicting() -> None:
    memory = Limited(available=1000 * MB, free=3.5 * 136 * 136)
    assert make_tiles(memory, (128, 128), images=64).plan.batch == 3
    assert make_tiles(memory, (128, 128), images=2).plan.batch == 2


def test_a_clip_goes_through_in_groups() -> None:
    progress, memory = Recorder(), Limited(1000 * MB, 1000 * MB)
    clip = make_tiles(memory, (128, 128), images=64, progress=progress)
    groups = run(clip, MB)
    assert groups[0] == slice(0, 14)
    assert groups[-1].stop == 64
    assert progress.texts[0] == "images 1-14/64, x, tile 14/14"
    assert progress.texts[-1] == "images 57-64/64, x, tile 8/8"
    assert progress.done == pytest.approx(64)
    assert len(progress.plans) == 1


def test_an_image_in_many_tiles_goes_alone() -> None:
    memory = Limited(1000 * MB, 1000 * MB)
    tiles = make_tiles(memory, (1024, 1024), images=3)
    assert (len(tiles.plan), tiles.plan.batch) == (25, 4)
    assert run(tiles, MB) == [slice(0, 1), slice(1, 2), slice(2, 3)]


def test_less_goes_together_and_then_tiles_halve_with_their_overlap() -> None:
    progress, memory = Recorder(), Limited(1000 * MB, 5 * MB)
    tiles = make_tiles(memory, (2048, 2048), Tiling(1024, 512), progress=progress)
    assert len(tiles.plan) == 9
    assert run(tiles, 520 * 520) == [slice(0, 1)]
    assert len(tiles.plan) == 49
    assert tiles.plan.rows.tile <= 520
    assert progress.done == pytest.approx(1), "repeated work was counted twice"
    assert "overlap 256" in progress.plans[-1]


def test_large_results_move_to_main_memory_before_tiles_halve() -> None:
    memory = Limited(1000 * MB, 1000 * MB)
    tiles = make_tiles(memory, (64, 64))
    assert tiles.output_device.type == "cpu"
    tiles.place_output(999 * MB)
    assert tiles.output_device.type == "meta"
    tiles._use_less()
    assert tiles.output_device.type == "cpu"
    assert tiles.plan.rows.tile == 72
    crowded = make_tiles(Limited(1000 * MB, MB), (64, 64))
    crowded.place_output(2 * MB)
    assert crowded.output_device.type == "cpu"


def test_where_the_smallest_tile_does_not_fit_it_is_said() -> None:
    tiles = make_tiles(Limited(MB, MB), (512, 512))
    with pytest.raises(MemoryError, match="Out of memory even with tiles of 64 LR pixels"):
        run(tiles, 10)


def test_other_errors_are_not_taken_for_lack_of_memory() -> None:
    def fail(*_: Any) -> Tensor:
        raise RuntimeError("size mismatch")

    tiles = make_tiles(Limited(MB, MB), (64, 64))
    with pytest.raises(RuntimeError, match="size mismatch"):
        tiles(fail, torch.empty(1, 3, 64, 64, device="meta"), text="x")


def test_a_chosen_overlap_is_cut_to_half_a_tile_and_that_is_said() -> None:
    progress = Recorder()
    tiles = make_tiles(Limited(MB, MB), (1024, 1024), Tiling(256, 256), progress=progress)
    assert len(tiles.plan) == 49
    assert "49 tiles of 264x264, overlap 128" in progress.details[0]


def test_a_folder_of_photos_needs_few_kernels() -> None:
    memory, sizes = Limited(1000 * MB, 1000 * MB), range(100, 900, 7)
    plans = [make_tiles(memory, (size, 3 * size // 2), fixed=True).plan for size in sizes]
    shapes = {(plan.rows.tile, plan.columns.tile, plan.batch) for plan in plans}
    assert shapes == {(128, 256, 1), (256, 256, 1)}


def test_small_images_share_a_call_on_a_cpu() -> None:
    """Small images are processed in batches even on a CPU. One by one, 20 images of 16x16 took five
    times as long as a single image with as many pixels."""
    network = SimpleNamespace(config=UNetConfig(trained_resolution=32), compiled=False)
    managed: Any = Managed(network, torch.device("cpu"))  # type: ignore[type-var]
    memory = Limited(1000 * MB, 1000 * MB)
    small = Tiles([managed], Picture(torch.empty(20, 3, 16, 16)), memory, Tiling(), Progress())
    assert small.plan.batch == 4
    large = Tiles([managed], Picture(torch.empty(20, 3, 128, 128)), memory, Tiling(), Progress())
    assert large.plan.batch == 1


@pytest.mark.slow
def test_three_megapixels_fit_into_three_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image of 3 megapixels is upscaled with less than 3 GB of GPU memory (counted with
    FakeTensors). The result stays in main memory, since it has 0.6 GB in fp32, and the steps
    after decoding need five times as much."""
    monkeypatch.undo()
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
    assert 0.3e9 < counts.peak < 3e9


class Nearest:
    """An upscale model that runs out of memory on images with a side above `largest` pixels."""

    scale = 4

    def __init__(self, largest: int) -> None:
        self.largest = largest

    def __call__(self, x: Tensor) -> Tensor:
        if max(x.shape[2:]) > self.largest:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return x.repeat_interleave(4, 2).repeat_interleave(4, 3)


def make_start(largest: int) -> Tensor:
    """Upscale a picture of 150x100 pixels with only the upscale model `Nearest(largest)`."""
    networks: Any = (None, None, None, {"nearest": Nearest(largest)})
    lr = Picture(torch.rand(1, 3, 100, 150, generator=torch.Generator().manual_seed(1)))
    return Upscaler(*networks).upscale(lr, Method("m", "nearest", steps=0))


def test_tiles_of_upscale_models_halve_too_and_it_is_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    assert torch.allclose(make_start(64 + 2 * MARGIN), make_start(256), atol=1e-5)
    assert "out of memory; tiles of 64 LR pixels now" in caplog.text
    with pytest.raises(MemoryError, match="even with tiles of 64 LR pixels"):
        make_start(32)


# Various images, with the bundled models


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    return load_upscaler(
        *(f"lpnsr_lite_{p}.safetensors" for p in ("autoencoder", "denoiser", "noise_predictor")),
        ["lpnsr_lite_compact_x4.safetensors"],
    )


@pytest.fixture
def bundled(upscaler: Upscaler, monkeypatch: pytest.MonkeyPatch) -> Upscaler:
    monkeypatch.undo()
    return upscaler


ONE_STEP = Method("m", steps=1)


def test_grey_stays_grey(bundled: Upscaler) -> None:
    """The result of a nearly grey RGB picture is grey. Without special treatment, grey photos got
    colour casts of up to 51/255."""
    grey = torch.rand(2, 1, 24, 24, generator=torch.Generator().manual_seed(1))
    lr = grey.expand(-1, 3, -1, -1) + torch.tensor([0, 1 / 255, 0]).view(3, 1, 1)
    lr[1, 0] += 0.1
    result = bundled.upscale(Picture(lr.clamp(0, 1)), ONE_STEP)
    assert torch.equal(result[0, 0], result[0, 1])
    assert torch.equal(result[0, 0], result[0, 2])
    assert not torch.equal(result[1, 0], result[1, 1])


def edge_width(alpha: Tensor) -> float:
    """Return the width of an edge: the number of pixels in a row with an alpha of 10 % to 90 %."""
    return float(((alpha > 0.1) & (alpha < 0.9)).sum())


def test_alpha_is_as_sharp_as_the_colours(bundled: Upscaler) -> None:
    alpha = torch.zeros(1, 1, 24, 32)
    alpha[..., 13:] = 1
    lr = Picture(torch.full((1, 3, 24, 32), 0.5), alpha)
    with_model = Method("m", "lpnsr_lite_compact_x4.safetensors", steps=1)
    soft, sharp = (bundled.upscale(lr, method)[0, 3] for method in (ONE_STEP, with_model))
    assert edge_width(sharp[48]) < edge_width(soft[48])
    for result in (soft, sharp):
        assert torch.equal(result[:, :44], torch.zeros(96, 44)), "transparent pixels changed"
        assert torch.equal(result[:, -60:], torch.ones(96, 60)), "opaque pixels changed"


def test_smooth_alpha_gets_no_steps(bundled: Upscaler) -> None:
    ramp = torch.linspace(0, 1, 32).expand(1, 1, 24, -1)
    lr = Picture(torch.full((1, 3, 24, 32), 0.5), ramp)
    method = Method("m", "lpnsr_lite_compact_x4.safetensors", steps=1)
    row = bundled.upscale(lr, method)[0, 3, 48]
    assert row.diff().abs().max() < 3 / 128


def test_with_an_empty_mask_no_network_runs(bundled: Upscaler) -> None:
    class Refusing(Memory):
        def load(self, networks: Sequence[Any], activations: float) -> None:
            raise AssertionError("a network was loaded, although the mask is empty")

    lr = Picture(torch.rand(1, 3, 16, 20, generator=torch.Generator().manual_seed(2)))
    engine = Engine(bundled.engine.networks, Refusing(), progress=Recorder())
    finish = Finish(region=Region(torch.zeros(1, 1, 64, 64), 8))
    for target in (Target(), Target(2), Target(8)):
        result, _ = engine.upscale(lr, None, Sampling(), finish, target)
        assert tuple(result.shape[2:]) == target.size(16, 20)
    plain, _ = engine.upscale(lr, None, Sampling(), finish)
    assert torch.equal(plain, lr.resize(64, 80).rgb.clamp(0, 1))


@pytest.mark.parametrize("color", ["white", "black", "grey"])
def test_flat_images_have_no_spots_in_corners_and_no_rims(bundled: Upscaler, color: str) -> None:
    """The engine adds a margin to images, since the zero padding of convolutions would cause errors
    of up to 48/255 at their borders."""
    value = {"white": 1.0, "black": 0.0, "grey": 0.5}[color]
    lr = torch.full((1, 3, 32, 32), value)
    result = bundled.upscale(Picture(lr), Method("m"))
    assert (result - value).abs().max() <= 6 / 255
