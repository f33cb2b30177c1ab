"""Draws a sheet of degraded pictures, for a look at the training data."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from ...config import SCALE
from ...pictures.reading import read_picture, readable_pictures, to_pil
from .apply import degrade
from .parameters import Degradation, Order, draw

_CAPTION = 76  # height of the text below each picture, in pixels


def make_sheet(
    data: Path, pictures: int, draws: int, crop: int, seed: int, mild: float = 0.0
) -> Image.Image:
    """Draw centre crops of random pictures from a folder, each degraded `draws` times.

    Args:
        data: folder of HR pictures.
        pictures: number of pictures.
        draws: number of degradations per picture.
        crop: height and width of the crops.
        seed: seed for the choice of pictures and degradations.
        mild: probability of a mild degradation.

    Raises:
        ValueError: `crop` is not a multiple of 4, or no picture is large enough.
    """
    if crop < SCALE or crop % SCALE:
        raise ValueError(f"crop is {crop}, expected a multiple of {SCALE}.")
    rng = np.random.default_rng(seed)
    rows: list[Image.Image] = []
    files = readable_pictures(data)
    for i in rng.permutation(len(files)):
        x = read_picture(files[i])
        if min(x.shape[1:]) >= crop:
            y0, x0 = (x.shape[1] - crop) // 2, (x.shape[2] - crop) // 2
            rows.append(_draw_row(x[:, y0 : y0 + crop, x0 : x0 + crop][None], draws, rng, mild))
        if len(rows) == pictures:
            break
    if not rows:
        raise ValueError(f"{data} has no picture of at least {crop}x{crop}. Use a smaller crop.")
    sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), "white")
    for i, row in enumerate(rows):
        sheet.paste(row, (0, i * row.height))
    return sheet


def _draw_row(hr: Tensor, draws: int, rng: np.random.Generator, mild: float) -> Image.Image:
    crop = hr.shape[3]
    row = Image.new("RGB", (crop * (draws + 1), crop + _CAPTION), "white")
    pen = ImageDraw.Draw(row)
    row.paste(to_pil(hr), (0, 0))
    pen.text((4, crop + 2), "HR", "black")
    for i in range(1, draws + 1):
        d = draw(rng, mild)
        lr = to_pil(degrade(hr, d)).resize((crop, crop), Image.Resampling.NEAREST)
        row.paste(lr, (i * crop, 0))
        pen.multiline_text((i * crop + 4, crop + 2), describe(d), "black", spacing=2)
    return row


def describe(d: Degradation) -> str:
    """Describe a degradation in four lines."""
    sinc = f", sinc {d.final_sinc.kernel.shape[0]}" if d.final_sinc else ""
    order = "then JPEG" if d.jpeg_last else "after JPEG"
    return "\n".join(
        [
            _describe_order(d.first),
            f"JPEG {d.first_jpeg}",
            _describe_order(d.second) if d.second else "no second order",
            f"to LR ({d.final_mode}){sinc} {order} {d.final_jpeg}",
        ]
    )


def _describe_order(order: Order) -> str:
    blur = f"{order.blur.name} {order.blur.kernel.shape[0]}" if order.blur else "no blur"
    noise = order.noise
    level = noise.level * 255 if noise.kind == "gaussian" else noise.level
    kind = f"grey {noise.kind}" if noise.grey else noise.kind
    return f"{blur}, x{order.resize.scale:.2f}, {kind} {level:.1f}"
