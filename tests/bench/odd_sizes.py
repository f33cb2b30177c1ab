"""Compare padding to multiples of 8, as the pack does, with the published padding to multiples of
64, on pictures of other sizes and with the same noise."""

from lpnsr_impl.engine.pipeline import decode_latent, encode_start, run_chain
from torch import Tensor

from lpnsr_impl import Schedule, wavelet_color_fix
from lpnsr_impl.pictures.images import bicubic_upsample, resize, to_01, to_pm1
from lpnsr_impl.pictures.reading import picture_files, read_picture

from .baseline import next_multiple
from .seams import HR
from .speed import SEED, load, picture, psnr
from .ways import Networks

SIZES = [(97, 130), (72, 56), (40, 100)]  # LR height and width
PICTURES = 4


def upscaled(networks: Networks, lr: Tensor, size: tuple[int, int]) -> Tensor:
    """Upscale [1,3,h,w] in [-1,1] to [1,3,4h,4w] in [0,1], with the latent padded to `size`."""
    autoencoder, denoiser, predictor = networks
    start = to_01(bicubic_upsample(lr))
    y0 = encode_start(autoencoder, start, size)
    x0 = run_chain(denoiser, predictor, Schedule(), y0, lr, seed=SEED)
    h, w = lr.shape[2:]
    return wavelet_color_fix(decode_latent(autoencoder, x0, (h, w)), start)


def both(networks: Networks, lr: Tensor) -> tuple[Tensor, Tensor]:
    """Upscale with our padding, and with the published one."""
    h, w = lr.shape[2:]
    ours, published = networks[1].config.padded(h, w), (next_multiple(h), next_multiple(w))
    return upscaled(networks, lr, ours), upscaled(networks, lr, published)


def odd_sizes() -> None:
    """Print a table of means over pictures."""
    print(
        "\n## Odd sizes, padded to multiples of 8 (ours) and of 64 (published)\n\n"
        "| networks | LR | PSNR of ours | of the published | of one to the other |\n"
        "|---|---|---|---|---|"
    )
    networks = load("lite")
    for h, w in SIZES:
        hr = [
            read_picture(path)[None, :, : 4 * h, : 4 * w] for path in picture_files(HR)[:PICTURES]
        ]
        results = [both(networks, to_pm1(resize(x, h, w).clamp(0, 1))) for x in hr]
        to_hr = [
            sum(psnr(result[i], x) for result, x in zip(results, hr, strict=True)) / len(hr)
            for i in range(2)
        ]
        to_each_other = sum(psnr(*result) for result in results) / len(hr)
        row = f"{to_hr[0]:.2f} dB | {to_hr[1]:.2f} dB | {to_each_other:.1f} dB"
        print(f"| lite, {len(hr)} photos | {w}x{h} | {row} |", flush=True)
    h, w = SIZES[1]
    apart = psnr(*both(load("full"), picture(h, w)))
    print(f"| full size, weights by formula | {w}x{h} | | | {apart:.1f} dB |", flush=True)
