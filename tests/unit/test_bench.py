"""Tests of the benchmarks: counts of operations, the baseline, timing, and the GPU report."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from lpnsr_impl import Schedule, sample
from lpnsr_impl.method.noise import seeded_noise
from lpnsr_impl.pictures.images import bicubic_upsample
from lpnsr_impl.pictures.reading import picture_files, read_picture
from tests.bench import gpu_report, odd_sizes
from tests.bench.baseline import Baseline
from tests.bench.counting import FAKE, Counts, counted
from tests.bench.gpu_times import Measured, Stopwatch, line, time_all
from tests.bench.speed import load
from tests.bench.ways import SMALL


@pytest.fixture
def x() -> Tensor:
    with FAKE:
        return torch.zeros(1, 8, 16, 16, device="cuda", dtype=torch.float16)


pytestmark = pytest.mark.slow

SIZE = 8 * 16 * 16 * 2  # bytes of x


def test_what_writes_is_counted_by_kind_and_views_are_not(x: Tensor) -> None:
    with FAKE:
        weight, gain = torch.zeros(4, 8, 3, 3, device="cuda").half(), x.new_zeros(8)

    def run(_: Counts) -> None:
        h = F.conv2d(x, weight, padding=1)
        h = h.flatten(2).mT.unsqueeze(0).float()
        h.mul_(2)
        F.group_norm(x, 2, gain, gain)
        F.interpolate(x, scale_factor=2.0)
        torch.empty_like(x)
        x.cpu() + 1

    counts = counted(run)
    assert counts.operations == {
        "convolution": 1,
        "cast": 1,
        "elementwise": 1,
        "norm": 1,
        "copy": 1,
    }
    written = dict(counts.written)
    assert written.pop("norm") - SIZE == 2 * 2 * 2  # fp16 mean and deviation of two groups
    assert written == {
        "convolution": SIZE // 2,
        "cast": SIZE,
        "elementwise": SIZE,
        "copy": 4 * SIZE,
    }


def test_the_peak_is_of_what_lives_together(x: Tensor) -> None:
    def run(_: Counts) -> None:
        y = x + 1
        y = y + 1  # at this point, the results of both additions are alive
        del y
        x + 1

    assert counted(run).peak == 2 * SIZE


@pytest.mark.parametrize(
    ("waits", "run"),
    [
        (1, lambda x: x.sum().item()),
        (1, lambda x: x.cpu()),
        (1, lambda x: torch.zeros(3).to(x.device)),
        (0, lambda x: torch.zeros(3).to(x.device, non_blocking=True)),
        (0, lambda x: x.float().sum()),
        (0, lambda x: torch.zeros(3).sum().item()),
    ],
)
def test_waits_of_the_host_are_counted(x: Tensor, waits: int, run) -> None:
    assert len(counted(lambda _: run(x)).waits) == waits


@pytest.mark.parametrize("aligned", [True, False])
def test_attention_is_one_kernel_and_may_copy_its_mask(aligned: bool) -> None:
    with FAKE:
        q = torch.zeros(4, 2, 64, 32, device="cuda", dtype=torch.float16)
        bias = torch.zeros(1, 2, 64, 64, device="cuda", dtype=torch.float16)
        bias = (bias if aligned else bias.mT).expand(4, -1, -1, -1)
    counts = counted(lambda _: F.scaled_dot_product_attention(q, q, q, attn_mask=bias))
    assert counts.operations == {"attention": 1} if aligned else {"attention": 1, "copy": 1}
    assert counts.written["attention"] == 4 * 2 * 64 * 32 * 2
    assert counts.written["copy"] == (0 if aligned else 4 * 2 * 64 * 72 * 2)


@pytest.mark.parametrize("published", [True, False])
@torch.inference_mode()
def test_the_baseline_computes_the_same(published: bool) -> None:
    autoencoder, denoiser, predictor = load("lite")
    baseline = Baseline(autoencoder, denoiser, predictor, published=published)
    lr = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    y0 = autoencoder.encode(bicubic_upsample(lr))
    x0 = sample(denoiser, predictor, Schedule(), y0, lr, noise=seeded_noise(1))
    result, latent = baseline.upscale(lr, 1)
    assert result.shape == (1, 3, 256, 256)
    torch.testing.assert_close(latent, x0, rtol=0, atol=1e-3)
    codes = autoencoder.quantize(x0)  # a latent between two codes may be rounded to either
    torch.testing.assert_close(
        baseline.autoencoder.decode(codes), autoencoder.decode(codes), rtol=0, atol=1e-3
    )


def test_the_odd_sizes_fit_into_their_photos() -> None:
    for path in picture_files(odd_sizes.HR)[: odd_sizes.PICTURES]:
        height, width = read_picture(path).shape[1:]
        assert all(4 * h <= height and 4 * w <= width for h, w in odd_sizes.SIZES)


def test_a_gpu_is_counted_without_one(tmp_path: Path) -> None:
    """Without a GPU, the GPU benchmark counts operations. It runs in a separate process, since
    networks may cache tensors on the fake "cuda" device."""
    path = tmp_path / "figures.json"
    options = ["--device", "none", "--small", "--json", str(path)]
    output = run_python("-m", "tests.bench.gpu", *options)
    assert output.count("| reached |") + output.count("| MISSED |") == 2 * 11
    for bar in ("waits inside the chain", "blending: operations a tile"):
        assert re.search(rf"{bar} .* reached", output)
    ours = {row["what"]: row for row in json.loads(path.read_text()) if row["who"] == "ours"}
    assert all(ours[what]["bytes"]["convolution"] > 0 for what in ("encode", "denoiser", "clip"))


def run_python(*arguments: str) -> str:
    command, root = [sys.executable, *arguments], Path(__file__).parents[2]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=root).stdout


def test_times_are_taken_while_time_is_left() -> None:
    sizes = replace(SMALL, frames=1)
    rows = list(time_all(Stopwatch("cpu"), sizes, False, [torch.float32]))
    calls = [
        (what, batch) for what in ("encode", "denoiser", "predictor", "decode") for batch in (1, 2)
    ]
    assert [(row["what"], row["batch"]) for row in rows] == [*calls, ("picture", 1), ("clip", 1)]
    assert all(row["seconds"] > 0 and row["ratio"] > 0 for row in rows)
    assert line(rows[0]).startswith("| float32 | eager | encode | 16² | 1 |")
    assert list(time_all(Stopwatch("cpu", seconds=0), sizes, False)) == []


def test_running_out_of_memory_is_a_figure() -> None:
    def run() -> None:
        torch.empty(1 << 60, dtype=torch.uint8)

    def fail() -> None:
        raise RuntimeError("size mismatch")

    stopwatch = Stopwatch("cpu")
    assert stopwatch.measure(run) == Measured(None)
    with pytest.raises(RuntimeError, match="size mismatch"):
        stopwatch.measure(fail)


def test_the_gpu_report_compares_with_goldens() -> None:
    results, goldens = gpu_report.run_golden_cases(load("lite")), load_file(gpu_report.GOLDENS)
    assert all(x.shape == goldens[name].shape for name, x in results.items())
    wrong = {name: x + 0.1 for name, x in results.items()}
    for dtype in gpu_report.BARS:
        assert all(bar.reached for bar in gpu_report.compare(results, results, dtype))
        assert not any(bar.reached for bar in gpu_report.compare(wrong, results, dtype))


def test_the_gpu_report_runs_out_of_memory() -> None:
    """The out-of-memory check of the GPU report runs in a separate process, since it limits the
    memory of the process."""
    program = "from tests.bench.gpu_report import *; "
    program += "print_bars(check_out_of_memory('cpu', 96, share=0.4))"
    output = run_python("-c", program)
    assert "LPNSR: out of memory" in output
    assert output.count("| reached |") == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_the_gpu_report_needs_a_gpu() -> None:
    assert "no GPU" in run_python("-m", "tests.bench.gpu_report")
