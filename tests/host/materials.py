"""Make docs/materials.jpg, which shows what the settings in docs/settings.md do to different
materials: `python -m tests.host.materials`. Lite models, PreSet-B.

Text, pixel art and drawing are made here; photo and texture are pictures that come with the pack.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lpnsr_impl.engine.finish import Finish
from lpnsr_impl.jobs.upscaler import Upscaler, load_upscaler
from lpnsr_impl.method.sampler import Sampling
from lpnsr_impl.pictures.picture import Picture
from lpnsr_impl.pictures.reading import read_picture, to_pil

from .pictures import sheet
from .server import PACK

LITE = [f"lpnsr_lite_{part}.safetensors" for part in ("autoencoder", "denoiser", "noise_predictor")]
START = "lpnsr_lite_compact_x4.safetensors"
SIDE = 64  # LR pixels
GAP = 8
NOISE = 0.03

Upscale = Callable[..., Image.Image]


@torch.inference_mode()
def main() -> int:
    """Upscale every material with its settings, and write the sheet."""
    upscale = partial(upscale_with, load_upscaler(*LITE, [START]))
    rows = [photo(upscale), text(upscale), drawing(upscale), pixel_art(upscale), texture(upscale)]
    width = max(row.width for row in rows)
    result = Image.new("RGB", (width, sum(row.height + GAP for row in rows) - GAP), "white")
    y = 0
    for row in rows:
        result.paste(row, (0, y))
        y += row.height + GAP
    result.save(PACK / "docs" / "materials.jpg", quality=90)
    return 0


def upscale_with(
    upscaler: Upscaler, lr: Picture, *, lr_consistency: bool = False, **sampling: Any
) -> Image.Image:
    """Upscale x4 with PreSet-B and the given changes of its settings."""
    model = upscaler.upscale_models[START]

    def start(lr: Picture) -> Tensor:
        return model(lr.rgb).clamp(0, 1)

    finish = Finish(lr_consistency=lr_consistency)
    return to_pil(upscaler.engine.upscale(lr, start, Sampling(**sampling), finish)[0])


def photo(upscale: Upscale) -> Image.Image:
    """A photo with noise."""
    x = read_picture(PACK / "tests" / "data" / "eval" / "lr" / "kodim15.webp")[None]
    x = x[:, :, 30 : 30 + SIDE, 60 : 60 + SIDE]
    x = x + NOISE * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    lr = Picture(x.clamp(0, 1))
    results = {"PreSet-B": upscale(lr), "lr_consistency": upscale(lr, lr_consistency=True)}
    return sheet({"noisy photo": nearest(lr), **results}, 14)


def text(upscale: Upscale) -> Image.Image:
    """Printed text."""
    page = Image.new("RGB", (4 * SIDE, 4 * SIDE), "white")
    draw = ImageDraw.Draw(page)
    for i, size in enumerate((64, 48, 36, 28, 22)):
        draw.text((12, 6 + 48 * i), "Resolution", "black", ImageFont.load_default(size))
    lr = reduce(page)
    mean = upscale(lr, predictor_mode="mean", lr_consistency=True)
    return sheet({"text": nearest(lr), "PreSet-B": upscale(lr), "mean, lr_consistency": mean}, 14)


def drawing(upscale: Upscale) -> Image.Image:
    """A drawing with lines and flat colours."""
    page = Image.new("RGB", (4 * SIDE, 4 * SIDE), "#f4e3c8")
    draw = ImageDraw.Draw(page)
    draw.ellipse((40, 30, 216, 226), "#ffd9b8", "black", 5)
    for x in (84, 148):
        draw.ellipse((x, 92, x + 28, 136), "white", "black", 5)
        draw.ellipse((x + 8, 104, x + 22, 130), "#2b66b0")
    draw.arc((96, 130, 164, 190), 20, 160, "black", 5)
    draw.pieslice((36, 10, 220, 150), 180, 360, "#7a3b1e", "black", 5)
    lr = reduce(page)
    return sheet(
        {"drawing": nearest(lr), "PreSet-B": upscale(lr), "steps 1": upscale(lr, steps=1)}, 14
    )


def pixel_art(upscale: Upscale) -> Image.Image:
    """Squares of few colours, one LR pixel each."""
    palette = np.array([[29, 43, 83], [255, 0, 77], [255, 236, 39], [0, 228, 54]], dtype=np.uint8)
    rng = np.random.default_rng(5)
    half = rng.integers(0, 4, (SIDE // 4, SIDE // 8))
    art = np.concatenate([half, half[:, ::-1]], axis=1).repeat(2, 0).repeat(2, 1)
    lr = to_picture(Image.fromarray(np.tile(palette[art], (2, 2, 1))))
    return sheet({"pixel art": nearest(lr), "PreSet-B": upscale(lr), "nearest": nearest(lr)}, 14)


def texture(upscale: Upscale) -> Image.Image:
    """Where four copies of a seamless texture meet."""
    x = read_picture(PACK / "workflows" / "lpnsr_texture.png")[None]

    def corner(picture: Image.Image) -> Image.Image:
        w, h = picture.size
        array = np.roll(np.array(picture), (h // 2, w // 2), (0, 1))
        y, x = h // 2 - 2 * SIDE, w // 2 - 2 * SIDE
        return Image.fromarray(array[y : y + 4 * SIDE, x : x + 4 * SIDE])

    pictures = {
        "texture": nearest(Picture(x)),
        "wrap none": upscale(Picture(x)),
        "wrap both": upscale(Picture(x, wrap="both")),
    }
    return sheet({title: corner(picture) for title, picture in pictures.items()}, 14)


def reduce(picture: Image.Image) -> Picture:
    """Downscale a picture to a quarter of its size."""
    return to_picture(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def to_picture(picture: Image.Image) -> Picture:
    """Convert an RGB image to a batch of one."""
    return Picture(torch.from_numpy(np.array(picture)).movedim(-1, 0)[None].float() / 255)


def nearest(lr: Picture) -> Image.Image:
    """Enlarge x4 without smoothing."""
    _, h, w = lr.size
    return to_pil(lr.rgb).resize((4 * w, 4 * h), Image.Resampling.NEAREST)


if __name__ == "__main__":
    sys.exit(main())
