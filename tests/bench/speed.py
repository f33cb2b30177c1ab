"""`make bench`: time and memory of every stage against a straightforward way to run the same
networks.

Networks of full size have weights made by formula; the baseline is `tests.bench.baseline`, in the
same process and turn about with ours. Peak memory is measured in a process of its own for each.
"""

import argparse
import ctypes
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from lpnsr_impl import (
    Schedule,
    load_autoencoder,
    load_denoiser,
    load_noise_predictor,
    wavelet_color_fix,
)
from lpnsr_impl.engine.pipeline import decode_latent, encode_start, run_chain
from lpnsr_impl.files.folders import find_weights
from lpnsr_impl.models import Autoencoder, Denoiser, NoisePredictor, set_precision
from lpnsr_impl.pictures.images import bicubic_upsample, to_01
from lpnsr_impl.pictures.tiling import DEFAULT_OVERLAP, LARGEST_TILE, plan_tiles
from tests.golden.fill import fill

from .baseline import Baseline, next_multiple

ROOT = Path(__file__).parents[2]
FULL_SIZES = [(64, 64), (128, 128), (97, 130), (256, 256)]  # height, width
LITE_SIZES = [*FULL_SIZES, (512, 512), (1024, 1024)]
LARGEST_BASELINE = 128 * 256  # pixels; more needs more than 12 GB
SEED = 0

Networks = tuple[Autoencoder, Denoiser, NoisePredictor]
Upscale = Callable[[Tensor, int, Callable[[str], None]], tuple[Tensor, Tensor]]
"""Picture, seed and a function for the name of each stage done, to picture and last latent."""


def load(family: str) -> Networks:
    """The bundled lite networks, or full-size ones by formula."""
    if family == "lite":
        lite = "lpnsr_lite_{}.safetensors"
        return (
            load_autoencoder(find_weights(lite.format("autoencoder"))),
            load_denoiser(find_weights(lite.format("denoiser"))),
            load_noise_predictor(find_weights(lite.format("noise_predictor"))),
        )
    keys = json.loads((ROOT / "tests" / "golden" / "checkpoint_keys.json").read_text())
    return (
        load_autoencoder(fill(keys["autoencoder_vq_f4"])),
        load_denoiser(fill(keys["resshift_denoiser"])),
        load_noise_predictor(fill(keys["noise_predictor"])),
    )


def ours(networks: Networks) -> Upscale:
    """PreSet-A as the nodes run it, with tiles of at most `LARGEST_TILE`."""
    autoencoder, denoiser, predictor = networks
    multiple, step = denoiser.config.size_multiple, denoiser.config.tile_multiple

    def upscale(lr: Tensor, seed: int, stage: Callable[[str], None]) -> tuple[Tensor, Tensor]:
        size = denoiser.config.padded(*lr.shape[2:])
        tile = LARGEST_TILE // step * step
        plan = plan_tiles(*size, tile, DEFAULT_OVERLAP, multiple, least=step)
        y0 = encode_start(autoencoder, to_01(bicubic_upsample(lr)), size, plan)
        stage("encode")
        x0 = run_chain(denoiser, predictor, Schedule(), y0, lr, seed=seed, plan=plan)
        stage("4 steps")
        sr = decode_latent(autoencoder, x0, lr.shape[2:], plan)
        sr = wavelet_color_fix(sr, to_01(bicubic_upsample(lr)))
        stage("decode")
        return sr, x0

    return upscale


def picture(h: int, w: int) -> Tensor:
    """A smooth random picture, [1,3,h,w] in [-1,1]."""
    coarse = torch.rand(1, 3, -(-h // 8), -(-w // 8), generator=torch.Generator().manual_seed(1))
    return 2 * torch.nn.functional.interpolate(coarse, size=(h, w), mode="bilinear") - 1


def timed(upscale: Upscale, lr: Tensor) -> tuple[tuple[Tensor, Tensor], dict[str, float]]:
    """Result and latent, and seconds by stage."""
    seconds: dict[str, float] = {}
    last = time.perf_counter()

    def stage(name: str) -> None:
        nonlocal last
        now = time.perf_counter()
        seconds[name], last = now - last, now

    result = upscale(lr, SEED, stage)
    return result, seconds | {"whole": sum(seconds.values())}


def peak(family: str, who: str, h: int, w: int) -> float:
    """Peak resident memory of one run in a process of its own, weights included, in MB."""
    command = [sys.executable, "-m", "tests.bench.speed", "--peak", family, who, str(h), str(w)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    return float(output.split()[0])


def measure_peak(family: str, who: str, h: int, w: int) -> None:
    """Run once; print the peak of this process in MB, and seconds."""
    networks = load(family)
    upscale = ours(networks) if who == "ours" else Baseline(*networks).upscale
    del networks  # of which the baseline has its own copy
    ctypes.CDLL(None).malloc_trim(0)  # what loading needed is no part of the run
    Path("/proc/self/clear_refs").write_text("5")  # from here on the peak counts
    began = time.perf_counter()
    upscale(picture(h, w), SEED, lambda _: None)
    seconds = time.perf_counter() - began
    status = Path("/proc/self/status").read_text()
    peak_kb = next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line)
    print(f"{peak_kb / 1024:.0f} {seconds:.1f}")


def psnr(a: Tensor, b: Tensor) -> float:
    """Of pictures in [0,1], in dB."""
    return -10 * math.log10(max(float((a - b).square().mean()), 1e-20))


def differences(autoencoder: Autoencoder, a: Tensor, b: Tensor) -> str:
    """Of two latents: rounding alone may choose the other of two codes that are equally near."""
    codes_a, codes_b = (autoencoder.quantize.codes(latent) for latent in (a, b))
    different = int((codes_a != codes_b).sum())
    return f"{float((a - b).abs().max()):.1e} | {different} of {codes_a.numel()}"


def compare(family: str, sizes: list[tuple[int, int]], runs: int) -> None:
    """Print a table of a family: each stage of ours, and its ratio to the baseline."""
    networks = load(family)
    run_ours, run_baseline = ours(networks), Baseline(*networks).upscale
    print(f"\n## {family}, PreSet-A, 4 steps, fp32, {torch.get_num_threads()} threads\n")
    print(
        "| LR | stage | ours | baseline | ratio | latents differ by | codes that differ |\n"
        "|---|---|---|---|---|---|---|"
    )
    small = picture(64, 64)
    for run in (run_ours, run_baseline):
        timed(run, small)  # the first run is slower
    for h, w in sizes:
        lr, both = picture(h, w), h * w <= LARGEST_BASELINE
        mine, theirs = [], []
        for _ in range(runs if both else 1):
            result, seconds = timed(run_ours, lr)
            mine.append(seconds)
            if both:
                expected, seconds = timed(run_baseline, lr)
                theirs.append(seconds)
        same = both and (h, w) == (next_multiple(h), next_multiple(w))
        difference = differences(networks[0], result[1], expected[1]) if same else " | "
        for name in mine[0]:
            a = statistics.median(run[name] for run in mine)
            line = f"| {w}x{h} | {name} | {a:.2f} s |"
            if theirs:
                b = statistics.median(run[name] for run in theirs)
                line += f" {b:.2f} s | {b / a:.2f} | {difference if name == 'whole' else ' | '} |"
            print(line, flush=True)


def compare_peaks(family: str, sizes: list[tuple[int, int]]) -> None:
    """Print peak memory, each in a process of its own."""
    print(f"\n## {family}, peak memory of the process\n")
    print("| LR | ours | baseline | share |\n|---|---|---|---|")
    for h, w in sizes:
        a = peak(family, "ours", h, w)
        line = f"| {w}x{h} | {a:.0f} MB |"
        if h * w <= LARGEST_BASELINE:
            b = peak(family, "baseline", h, w)
            line += f" {b:.0f} MB | {a / b:.2f} |"
        print(line, flush=True)


def growth(sizes: list[tuple[int, int]]) -> None:
    """Print the exponent of the lite family's time in the pixels, from the first to the last."""
    upscale = ours(load("lite"))
    seconds = [timed(upscale, picture(*size))[1]["whole"] for size in sizes]
    pixels = [h * w for h, w in sizes]
    exponent = math.log(seconds[-1] / seconds[0]) / math.log(pixels[-1] / pixels[0])
    listed = ", ".join(f"{w}x{h} {s:.0f} s" for (h, w), s in zip(sizes, seconds, strict=True))
    print(f"\n## lite, growth\n\n{listed}: time grows with pixels^{exponent:.3f}", flush=True)


def half_precision(h: int, w: int) -> None:
    """Print time and PSNR of bf16 against fp32, on networks of full size."""
    networks, lr = load("full"), picture(h, w)
    (expected, _), fp32 = timed(ours(networks), lr)
    for network in networks:
        set_precision(network, torch.bfloat16, torch.bfloat16)
    (result, _), bf16 = timed(ours(networks), lr)
    print(
        f"\n## full, bf16 against fp32 at {w}x{h}\n\n{fp32['whole']:.1f} s to {bf16['whole']:.1f} "
        f"s: {fp32['whole'] / bf16['whole']:.2f} times as fast, {psnr(result, expected):.1f} dB",
        flush=True,
    )


@torch.inference_mode()
def main() -> None:
    """All tables, or those asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peak", nargs=4, metavar=("FAMILY", "WHO", "H", "W"))
    parser.add_argument(
        "--only", nargs="+", choices=("full", "lite", "peaks", "growth", "bf16"), default=None
    )
    parser.add_argument("--runs", type=int, default=1)
    parsed = parser.parse_args()
    if parsed.peak:
        family, who, h, w = parsed.peak
        measure_peak(family, who, int(h), int(w))
        return
    wanted = parsed.only or ["full", "lite", "peaks", "growth", "bf16"]
    if "full" in wanted:
        compare("full", FULL_SIZES, parsed.runs)
    if "lite" in wanted:
        compare("lite", FULL_SIZES, parsed.runs)
    if "peaks" in wanted:
        compare_peaks("full", FULL_SIZES)
        compare_peaks("lite", LITE_SIZES)
    if "growth" in wanted:
        growth([(256, 256), (512, 512), (1024, 1024)])
    if "bf16" in wanted:
        half_precision(64, 64)


if __name__ == "__main__":
    main()
