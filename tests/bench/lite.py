"""Time PreSet-B with the bundled lite models, 128x128 to 512x512 in 4 steps, stage by stage.

The baseline runs the same networks with their weights in PyTorch's default layout, not
channels-last.
"""

import statistics
import time
from collections.abc import Callable

import torch

from lpnsr_impl import Schedule
from lpnsr_impl.color import wavelet_color_fix
from lpnsr_impl.family import Family, load_family
from lpnsr_impl.images import to_pm1
from lpnsr_impl.pipeline import decode_latent, encode_start, run_chain

START = "lpnsr_lite_compact_x4.safetensors"
RUNS = 3


@torch.no_grad()
def stages(family: Family, lr: torch.Tensor) -> dict[str, float]:
    """Seconds of each stage of one run."""
    seconds: dict[str, float] = {}

    def timed(name: str, stage: Callable[[], torch.Tensor]) -> torch.Tensor:
        began = time.perf_counter()
        result = stage()
        seconds[name] = time.perf_counter() - began
        return result

    multiple = family.denoiser.config.size_multiple
    x = timed("start", lambda: family.start(lr, START))
    y0 = timed("encode", lambda: encode_start(family.autoencoder, x, multiple))
    x0 = timed(
        "4 steps",
        lambda: run_chain(
            family.denoiser, family.noise_predictor, Schedule(), y0, to_pm1(lr), seed=0
        ),
    )
    timed("decode", lambda: decode_latent(family.autoencoder, x0, to_pm1(lr), wavelet_color_fix))
    return seconds | {"whole": sum(seconds.values())}


def main() -> None:
    """Print a table of medians."""
    lite = "lpnsr_lite_{}.safetensors"
    family = load_family(
        *(lite.format(part) for part in ("autoencoder", "denoiser", "noise_predictor")), [START]
    )
    lr = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    results: list[dict[str, float]] = []
    for layout in (torch.channels_last, torch.contiguous_format):
        for network in (family.autoencoder, family.denoiser, family.noise_predictor):
            assert network is not None
            network.to(memory_format=layout)
        stages(family, lr)
        runs = [stages(family, lr) for _ in range(RUNS)]
        results.append({name: statistics.median(run[name] for run in runs) for name in runs[0]})
    ours, baseline = results
    print("| stage | seconds | default layout | ratio |\n|---|---|---|---|")
    for name, seconds in ours.items():
        print(f"| {name} | {seconds:.2f} | {baseline[name]:.2f} | {baseline[name] / seconds:.2f} |")


if __name__ == "__main__":
    main()
