"""`make gpu`: a report about this machine's GPU, to paste into an issue. Takes up to 8 minutes.

It compares the networks with the goldens, measures times and memory, runs the quick-start workflow
in a real ComfyUI, and lets the GPU run out of memory. Without a GPU it only prints a message.
"""

import argparse
import logging
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from lpnsr_impl import Schedule, sample
from lpnsr_impl.engine.memory import activation_bytes
from tests.golden.fill import noise
from tests.host.install import comfyui_version
from tests.host.server import load_api_workflow, node_of_type, running

from . import gpu, memory
from .bars import Bar, print_bars
from .speed import ROOT, SEED, load, picture, psnr, read_status
from .ways import Networks, Ours, Sizes

GOLDENS = ROOT / "tests" / "golden" / "goldens.safetensors"
BARS = {torch.float32: (1e-4, 50.0), torch.float16: (3e-3, 37.0), torch.bfloat16: (2.5e-2, 30.0)}
"""By dtype: maximum relative RMS error of a network, and minimum PSNR of the final image in dB."""

SECONDS_FOR_TIMES = 180.0
SIDE = 256
"""Height and width, in LR pixels, of the image for which the memory of the GPU is too small."""


@torch.inference_mode()
def run_golden_cases(networks: Networks) -> dict[str, Tensor]:
    """Run each network and the whole chain on the inputs of the goldens. Returns {name: output}."""
    autoencoder, denoiser, predictor = networks
    device = next(denoiser.parameters()).device

    def draw(name: str, *shape: int) -> Tensor:
        return noise(f"in.{name}", shape).to(device)

    def draw_step(kind: str, t: int, shape: torch.Size) -> Tensor:
        return draw("z_T" if kind == "init" else f"eps.t{t}", *shape)

    size = (1, 3, 64, 64)
    x_t, x0, lr = draw("x_t.64x64", *size), draw("x0.64x64", *size), 0.5 * draw("lr.64x64", *size)
    results = {
        "vae.encode": autoencoder.encode(torch.tanh(0.5 * draw("image", 1, 3, 128, 96))),
        "vae.decode": autoencoder.decode(draw("latent", 1, 3, 24, 32)),
        "denoiser.64x64.t0": denoiser(x_t, 0, lr),
        "predictor.64x64.t0.mean": predictor(x_t, x0, lr, 0)[0],
    }
    lr = torch.tanh(F.interpolate(draw("lr_image", 1, 3, 16, 16), size=size[2:], mode="bicubic"))
    y0 = autoencoder.encode(F.interpolate(lr, scale_factor=4, mode="bicubic"))
    x0 = sample(denoiser, predictor, Schedule(), y0, lr, noise=draw_step)
    results["chain.steps4.image"] = autoencoder.decode(x0).clamp(-1, 1)
    return {name: x.cpu() for name, x in results.items()}


def compare(
    results: dict[str, Tensor], goldens: dict[str, Tensor], dtype: torch.dtype
) -> list[Bar]:
    """Compare results with the goldens of the same names, by the limits in `BARS`."""
    precision, (rms, least_psnr) = str(dtype).removeprefix("torch."), BARS[dtype]
    bars: list[Bar] = []
    for name, x in results.items():
        golden = goldens[name]
        if name.endswith("image"):
            value = psnr(x / 2, golden / 2)
            bars.append(Bar(f"{precision}: {name}, PSNR in dB", value, least_psnr, least=True))
        else:
            error = float((x - golden).norm() / golden.norm())
            bars.append(Bar(f"{precision}: {name}, relative error", error, rms))
    return bars


def check_goldens(device: str) -> list[Bar]:
    """Compare full-size networks on a device with the goldens, for each dtype of `BARS`."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    goldens, bars = load_file(GOLDENS), list[Bar]()
    for dtype in BARS:
        bars += compare(run_golden_cases(load("full", dtype, device)), goldens, dtype)
    return bars


def run_quick_start(options: tuple[str, ...]) -> tuple[Tensor, float, list[str]]:
    """Run the quick-start workflow twice in a real ComfyUI, with different seeds.

    Args:
        options: command-line options of ComfyUI, e.g. "--cpu".

    Returns:
        The second run's image, [h,w,3] in [0,1], its duration in seconds, and the lines of
        ComfyUI's log about memory and LPNSR.
    """
    prompt = load_api_workflow("LPNSR quick start")
    sampling = node_of_type(prompt, "LPNSRSample")["inputs"]
    with tempfile.TemporaryDirectory() as base, running(Path(base), device=options) as server:
        for sampling["seed"] in (SEED + 1, SEED):
            began = time.perf_counter()
            (file,) = server.images(server.run(prompt))
            seconds = time.perf_counter() - began
        words = ("VRAM", "Device:", "LPNSR:", "aimdo")
        lines = server.log.read_text(errors="replace").splitlines()
    image = torch.from_numpy(np.asarray(Image.open(BytesIO(file)).convert("RGB")) / 255)
    return image, seconds, [line for line in lines if any(word in line for word in words)]


def check_quick_start(device: str) -> list[Bar]:
    """Compare the image of the quick-start workflow with its image on the CPU."""
    image, seconds, lines = run_quick_start(() if device == "cuda" else ("--cpu",))
    print(f"ComfyUI {comfyui_version()}, second run {seconds:.1f} s\n\n```")
    print(*lines, "```", sep="\n", flush=True)
    on_cpu, _, _ = run_quick_start(("--cpu",))
    return [Bar("quick start: PSNR to the CPU's image, dB", psnr(image, on_cpu), 35, least=True)]


@contextmanager
def capped(device: str, num_bytes: float) -> Iterator[None]:
    """Let this process allocate at most `num_bytes` more memory, on a GPU or in main memory."""
    if device == "cuda":
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        limit = torch.cuda.memory_allocated() + num_bytes
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total))
        yield
        torch.cuda.set_per_process_memory_fraction(1.0)
    else:
        import resource  # not at the top, since Windows lacks this module

        before = resource.getrlimit(resource.RLIMIT_AS)
        limit = int(read_status("VmSize") + num_bytes)
        resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
        yield
        resource.setrlimit(resource.RLIMIT_AS, before)


@torch.inference_mode()
def check_out_of_memory(device: str, side: int = SIDE, share: float = 1 / 3) -> list[Bar]:
    """Upscale an image with only a share of the memory that the engine estimates for it. Compare
    the result with that of an upscale with enough memory."""
    ours, lr = Ours(*load("lite", device=device)), picture(side, side)
    warnings = _Messages()
    logging.getLogger("lpnsr_impl.engine.tiled").addHandler(warnings)
    estimate = activation_bytes(ours.autoencoder, side, side, torch.device(device))
    with capped(device, share * estimate):
        result, _ = ours.upscale(lr, SEED)
    expected, _ = ours.upscale(lr, SEED)
    print(*warnings.messages, sep="\n", flush=True)
    return [
        Bar("out of memory: calls repeated", len(warnings.messages), 1, least=True),
        Bar("out of memory: PSNR to enough memory, dB", psnr(result, expected), 30, least=True),
    ]


class _Messages(logging.Handler):
    """Collects log messages."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def check_times(device: str) -> list[Bar]:
    """Measure times, and compare memory with the engine's estimates."""
    gpu.measure(Sizes(), device, compiled=False, seconds=SECONDS_FOR_TIMES)
    memory.print_gpu_table()
    return []


SECTIONS: dict[str, Callable[[str], list[Bar]]] = {
    "goldens": check_goldens,
    "out-of-memory": check_out_of_memory,
    "quick-start": check_quick_start,
    "times": check_times,
}


def describe_machine() -> str:
    """Describe the GPU and the versions of the software."""
    properties = torch.cuda.get_device_properties(0)
    device = f"{properties.name}, {properties.total_memory / 1e9:.1f} GB"
    software = f"torch {torch.__version__}, Python {platform.python_version()}"
    return f"{device}; {software}, {platform.platform()}"


def main() -> int:
    """Print the report, or one section of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("section", nargs="?", choices=SECTIONS)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: for tests")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("PyTorch finds no GPU here, so there is nothing to report.")
        return 0
    if options.section:
        bars = SECTIONS[options.section](options.device)
        if bars:
            print_bars(bars)
        return int(not all(bar.reached for bar in bars))
    print(f"# LPNSR on {describe_machine()}", flush=True)
    failed = 0
    for section in SECTIONS:  # separate processes, so that one failure does not affect the others
        print(f"\n## {section}\n", flush=True)
        command = [sys.executable, "-m", "tests.bench.gpu_report", section]
        failed += subprocess.run(command, stderr=subprocess.STDOUT, cwd=ROOT).returncode != 0
    print(f"\n{failed} of {len(SECTIONS)} sections failed.")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
