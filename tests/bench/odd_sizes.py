"""Compare the PSNR of the pack and the baseline for images whose sizes are not multiples of 64.

The pack pads images to the next size that the networks accept, the baseline to multiples of 64.
Uses the lite models.
"""

from lpnsr_impl.pictures.edges import resample
from lpnsr_impl.pictures.images import to_pm1
from lpnsr_impl.pictures.reading import picture_files, read_picture

from .baseline import Baseline
from .seams import HR
from .speed import SEED, load, psnr
from .ways import Ours

SIZES = [(97, 126), (72, 56), (40, 100), (37, 29)]  # LR height and width; 4x must fit into HR
PICTURES = 4


def odd_sizes() -> None:
    """Print the mean PSNR over all pictures for each size."""
    print("\n## Odd sizes, PSNR\n\n| LR | ours | baseline |\n|---|---|---|")
    networks = load("lite")
    for h, w in SIZES:
        hrs = [read_picture(p)[None, :, : 4 * h, : 4 * w] for p in picture_files(HR)[:PICTURES]]
        lrs = [to_pm1(resample(hr, h, w).clamp(0, 1)) for hr in hrs]
        means = [
            sum(psnr(way.upscale(lr, SEED)[0], hr) for lr, hr in zip(lrs, hrs, strict=True))
            / PICTURES
            for way in (Ours(*networks), Baseline(*networks))
        ]
        print(f"| {w}x{h} | {means[0]:.2f} dB | {means[1]:.2f} dB |", flush=True)
