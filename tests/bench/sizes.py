"""Measure how the result depends on the size of the picture. A crop of a photo is repeated by
mirroring, so that the size changes, but not the content. Uses PreSet-B and the bundled models."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lpnsr_impl import Schedule
from lpnsr_impl.config import SCALE
from lpnsr_impl.jobs.upscaler import Method, Upscaler, load_upscaler
from lpnsr_impl.method.noise import seeded_noise
from lpnsr_impl.pictures.images import bicubic_upsample, to_pm1
from lpnsr_impl.pictures.picture import Picture
from lpnsr_impl.pictures.reading import read_picture

from .bars import Bar
from .speed import ROOT, SEED, psnr

START = "lpnsr_lite_compact_x4.safetensors"
METHODS = {
    "1 step": Method("", START, steps=1, seed=SEED),
    "4 steps, random noise": Method("", START, predictor_on={}, seed=SEED),
    "4 steps": Method("", START, seed=SEED),
}
COPIES = (1, 2, 4, 8)  # number of mirrored copies of a crop along each axis
SIDE = 32  # height and width of the crops, in LR pixels
PIECES = {"kodim15": (44, 66), "kodim03": (64, 60)}  # photo: top and left of its crop, in LR pixels
ONE_TILE = 2 * SIDE * COPIES[-1]  # tile size above every image size here, in LR pixels
LARGE, TILE = 128, 64  # image and tile size in LR pixels, for the tiled results


def sizes() -> list[Bar]:
    """Print PSNR and strength of details for each size, and compare tiled with untiled results."""
    names = (f"lpnsr_lite_{n}.safetensors" for n in ("autoencoder", "denoiser", "noise_predictor"))
    upscaler = load_upscaler(*names, [START])
    for network in (upscaler.denoiser, upscaler.noise_predictor):
        assert network is not None
        network.config = replace(network.config, largest_tile=ONE_TILE)
    pieces = {name: read_piece(name, *corner, SIDE) for name, corner in PIECES.items()}
    sides = [SIDE * k for k in COPIES]
    print("\n## The same content at sizes of LR\n")
    print("PSNR in dB. In brackets: standard deviation of the high frequencies relative to HR.\n")
    print("| photo | method | " + " | ".join(f"{side}x{side}" for side in sides) + " |")
    print("|---" * (len(sides) + 2) + "|")
    apart = dict.fromkeys(METHODS, 0.0)
    for photo, (lr, hr) in pieces.items():
        for name, method in METHODS.items():
            found = [measure(upscaler, method, mirror(lr, k), mirror(hr, k)) for k in COPIES]
            cells = " | ".join(f"{db:.2f} ({details:.2f})" for db, details in found)
            print(f"| {photo} | {name} | {cells} |", flush=True)
            apart[name] = max(apart[name], abs(found[0][0] - found[-1][0]))
        means = " | ".join(f"({details_of_mean(upscaler, mirror(lr, k)):.2f})" for k in COPIES)
        print(f"| {photo} | predicted noise mean at t = 4 | {means} |", flush=True)
    ends = f"{sides[0]} and {sides[-1]}"
    bars = [Bar(f"{name}: PSNR at {ends} apart, dB", db, 0.3) for name, db in apart.items()]
    return [*bars, *tiles(upscaler)]


def tiles(upscaler: Upscaler) -> list[Bar]:
    """Compare tiled with untiled results for larger crops of the same photos, without mirroring."""
    print(f"\n## {LARGE}x{LARGE} in tiles of {TILE}, 4 steps\n")
    print("| photo | one tile, dB | tiles, dB | PSNR between both, dB |\n" + "|---" * 4 + "|")
    worse, agree = 0.0, 100.0
    for photo in PIECES:
        lr, hr = read_piece(photo, 0, 32, LARGE)
        whole, tiled = (run(upscaler, METHODS["4 steps"], lr, tile) for tile in (ONE_TILE, TILE))
        print(f"| {photo} | {psnr(whole, hr):.2f} | {psnr(tiled, hr):.2f} ", end="")
        print(f"| {psnr(whole, tiled):.1f} |", flush=True)
        worse = max(worse, psnr(tiled, hr) - psnr(whole, hr))
        agree = min(agree, psnr(whole, tiled))
    name = f"{LARGE}x{LARGE}"
    return [
        Bar(f"{name} in one tile, PSNR below tiles of {TILE}, dB", worse, 0.1),
        Bar(f"{name} in tiles of {TILE} against one tile, PSNR, dB", agree, 40, least=True),
    ]


def read_piece(photo: str, top: int, left: int, side: int) -> tuple[Tensor, Tensor]:
    """Return LR and HR of a square crop, in [0,1]; top, left and side are in LR pixels."""
    folder = ROOT / "tests" / "data" / "eval"
    lr, hr = (read_picture(folder / kind / f"{photo}.webp")[None] for kind in ("lr", "hr"))
    box = [slice(start, start + side) for start in (top, left)]
    hr_box = [slice(SCALE * one.start, SCALE * one.stop) for one in box]
    return lr[:, :, box[0], box[1]], hr[:, :, hr_box[0], hr_box[1]]


def mirror(x: Tensor, copies: int) -> Tensor:
    """Repeat an image along both axes, each copy mirroring its neighbours.

    [B,C,h,w] -> [B,C,h*copies,w*copies]
    """
    for dim in (2, 3):
        x = torch.cat([x.flip(dim) if i % 2 else x for i in range(copies)], dim=dim)
    return x


def run(upscaler: Upscaler, method: Method, lr: Tensor, tile: int) -> Tensor:
    """Upscale in tiles of `tile` LR pixels: [1,3,h,w] -> [1,3,4h,4w], both in [0,1]."""
    upscaler.tile = tile
    return upscaler.upscale(Picture(lr), method)


def measure(upscaler: Upscaler, method: Method, lr: Tensor, hr: Tensor) -> tuple[float, float]:
    """Upscale `lr` in a single tile, and compare the result with `hr`.

    Returns:
        The PSNR in dB, and the standard deviation of the high frequencies relative to that of `hr`.
    """
    sr = run(upscaler, method, lr, ONE_TILE)
    return psnr(sr, hr), float(details(sr).std() / details(hr).std())


def details(x: Tensor) -> Tensor:
    """High-pass filter: x minus its 5x5 mean."""
    return x - F.avg_pool2d(x, 5, 1, padding=2, count_include_pad=False)


def details_of_mean(upscaler: Upscaler, lr: Tensor) -> float:
    """Return the standard deviation of high frequencies in the noise mean predicted at t = 4."""
    assert upscaler.noise_predictor is not None
    lr, schedule, t = to_pm1(lr), Schedule(), 4
    y0 = upscaler.autoencoder.encode(bicubic_upsample(lr))
    x_t = schedule.initial_state(y0, seeded_noise(SEED)("init", t, y0.shape), t)
    x0 = upscaler.denoiser(schedule.scale_input(x_t, t), t - 1, lr)
    return float(details(upscaler.noise_predictor(x_t, x0, lr, t - 1)[0]).std())
