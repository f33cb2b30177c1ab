"""Make docs/materials.jpg, which shows crops of several kinds of material and their upscaled
results."""

import sys
from dataclasses import replace

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from lpnsr_impl.config import SCALE
from lpnsr_impl.jobs.upscaler import Method, load_upscaler
from lpnsr_impl.pictures.images import split_channels
from lpnsr_impl.pictures.picture import Picture

from .pictures import sheet
from .server import PACK

START = "lpnsr_lite_compact_x4.safetensors"
SIDE = 48
"""Height and width of each LR crop, in pixels."""

PRESET_B = Method("PreSet-B", START)
FAITHFUL = replace(PRESET_B, predictor_mode="mean")
METHODS = {
    "photo": PRESET_B,
    "face": FAITHFUL,
    "text": FAITHFUL,
    "pixel art": PRESET_B,
    "drawing": replace(PRESET_B, steps=1),
    "texture": PRESET_B,
    "sprite": PRESET_B,
    "noisy photo": PRESET_B,
}
"""Settings from docs/settings.md for each material. Pixel art has none there, and uses PreSet-B to
show why."""


def main() -> int:
    """Upscale a crop of each material, and write a picture of LR and result side by side."""
    names = (f"lpnsr_lite_{n}.safetensors" for n in ("autoencoder", "denoiser", "noise_predictor"))
    upscaler = load_upscaler(*names, [START])
    pairs: dict[str, Image.Image] = {}
    for name, crop in crops().items():
        rgb, alpha = split_channels(to_tensor(crop))
        lr = Picture(rgb, alpha, wrap="both" if name == "texture" else "none")
        size = (SCALE * SIDE, SCALE * SIDE)
        pair = Image.new("RGB", (2 * size[0] + 4, size[1]), "white")
        pair.paste(on_white(crop).resize(size, Image.Resampling.NEAREST), (0, 0))
        pair.paste(on_white(to_image(upscaler.upscale(lr, METHODS[name]))), (size[0] + 4, 0))
        pairs[name] = pair
    rows = [dict(list(pairs.items())[i : i + 2]) for i in range(0, len(pairs), 2)]
    rows = [sheet(row, 17) for row in rows]
    width, height = rows[0].size
    picture = Image.new("RGB", (width, len(rows) * (height + 8) - 8), "white")
    for i, row in enumerate(rows):
        picture.paste(row, (0, i * (height + 8)))
    picture.save(PACK / "docs" / "materials.jpg", quality=85, optimize=True)
    return 0


def crops() -> dict[str, Image.Image]:
    """Return an LR picture of each material, RGB or RGBA. Some are cut out of pictures in the
    repository, the others are drawn."""
    example = Image.open(PACK / "workflows" / "lpnsr_example.png").convert("RGB")
    texture = Image.open(PACK / "workflows" / "lpnsr_texture.png").convert("RGB")
    kodak = PACK / "tests" / "data" / "eval" / "lr"
    face = Image.open(kodak / "kodim15.webp").convert("RGB")
    noisy = Image.open(kodak / "kodim17.webp").convert("RGB")
    return {
        "photo": crop(example, 78, 30),
        "face": crop(face, 84, 24),
        "text": draw_text(),
        "pixel art": draw_pixel_art(),
        "drawing": draw_drawing(),
        "texture": texture.resize((SIDE, SIDE), Image.Resampling.BICUBIC),
        "sprite": draw_sprite(),
        "noisy photo": crop(noisy, 60, 60),
    }


def crop(picture: Image.Image, left: int, top: int) -> Image.Image:
    """Cut out a square of `SIDE` pixels."""
    return picture.crop((left, top, left + SIDE, top + SIDE))


def draw_text() -> Image.Image:
    """Draw three lines of text."""
    picture = Image.new("RGB", (4 * SIDE, 4 * SIDE), "white")
    draw = ImageDraw.Draw(picture)
    for i, line in enumerate(("LPNSR", "x4 in four", "steps")):
        draw.text((10, 8 + 58 * i), line, fill="black", font=ImageFont.load_default(38))
    return picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def draw_pixel_art() -> Image.Image:
    """Draw a face in pixel art, in which each dot is a square of 3x3 pixels."""
    rows = ("..yyyyyy..", ".yyyyyyyy.", "yykyyyykyy", "yykyyyykyy", "yyyyyyyyyy", "yryyyyyyry",
            "yyrrrrrryy", ".yyyrryyy.", "..yyyyyy..", "..........")  # fmt: skip
    colors = {".": "#223355", "y": "#ffcc33", "k": "#000000", "r": "#bb2233"}
    picture = Image.new("RGB", (16, 16), colors["."])
    for y, row in enumerate(rows):
        for x, key in enumerate(row):
            picture.putpixel((x + 3, y + 3), tuple(bytes.fromhex(colors[key][1:])))
    return picture.resize((SIDE, SIDE), Image.Resampling.NEAREST)


def draw_drawing() -> Image.Image:
    """Draw outlined shapes with flat colours."""
    picture = Image.new("RGB", (4 * SIDE, 4 * SIDE), "#f5e9d0")
    draw = ImageDraw.Draw(picture)
    draw.ellipse((30, 20, 160, 150), fill="#f2a65a", outline="#221111", width=6)
    draw.polygon([(40, 50), (46, 4), (84, 30)], fill="#f2a65a", outline="#221111", width=6)
    draw.polygon([(150, 50), (144, 4), (106, 30)], fill="#f2a65a", outline="#221111", width=6)
    for x in (72, 118):
        draw.ellipse((x - 12, 68, x + 12, 92), fill="white", outline="#221111", width=5)
        draw.ellipse((x - 4, 74, x + 4, 88), fill="#225533")
    draw.arc((75, 90, 115, 125), 20, 160, fill="#221111", width=5)
    draw.rectangle((0, 160, 4 * SIDE, 4 * SIDE), fill="#5a8f7b")
    return picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def draw_sprite() -> Image.Image:
    """Draw a star on a transparent background. Transparent pixels are black."""
    angles = np.linspace(-np.pi / 2, 1.5 * np.pi, 11)[:-1]
    radii = np.where(np.arange(10) % 2, 34, 86)
    points = [(96 + r * np.cos(a), 100 + r * np.sin(a)) for a, r in zip(angles, radii, strict=True)]
    picture = Image.new("RGBA", (4 * SIDE, 4 * SIDE), (0, 0, 0, 0))
    ImageDraw.Draw(picture).polygon(points, fill="#ffd23f", outline="#aa4400", width=6)
    return picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def to_tensor(picture: Image.Image) -> torch.Tensor:
    """Convert an image to a tensor [1,C,h,w] in [0,1]."""
    return torch.from_numpy(np.asarray(picture).copy()).movedim(-1, 0)[None] / 255


def to_image(x: torch.Tensor) -> Image.Image:
    """Convert a tensor [1,3,H,W] or [1,4,H,W] in [0,1] to an image."""
    return Image.fromarray((x[0].movedim(0, -1) * 255).round().to(torch.uint8).numpy())


def on_white(picture: Image.Image) -> Image.Image:
    """Convert a picture to RGB, with white behind transparent pixels."""
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")


if __name__ == "__main__":
    sys.exit(main())
