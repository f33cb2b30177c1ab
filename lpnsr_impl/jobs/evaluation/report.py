"""Tables of means in Markdown, and contact sheets."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from ..upscaler import Method
from .metrics import METRICS
from .run import Pair, Row, result_path

MOST_ROWS = 24
CELL = 256
"""Side of a contact sheet's square crops, in HR pixels."""


def markdown_table(rows: Sequence[Row], missing: Mapping[str, str]) -> str:
    """A row for each method with the means over its pictures, and what went wrong below.

    A mean is over the pictures that have the value; the column `n` counts those without a problem.
    """
    arrows = {m.label: f"{m.label} {'↑' if m.higher_is_better else '↓'}" for m in METRICS}
    columns = [*arrows, "seconds"]
    names = list(dict.fromkeys(row["method"] for row in rows))
    lines = [
        f"| method | {' | '.join(arrows.get(c, c) for c in columns)} | n |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for name in names:
        of = [row for row in rows if row["method"] == name and not row["problem"]]
        cells = [_mean([row[column] for row in of if row[column]], column) for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} | {len(of)} |")
    notes = [f"- {label} is empty: {reason}" for label, reason in missing.items()]
    notes += [
        f"- {row['method']}, {row['picture']}: left out, {row['problem']}"
        for row in rows
        if row["problem"]
    ]
    return "\n".join([*lines, "", *notes]).strip() + "\n"


def _mean(values: Sequence[str], column: str) -> str:
    if not values:
        return ""
    mean = sum(float(value) for value in values) / len(values)
    digits = {"PSNR": 2, "SSIM": 4, "LPIPS": 4, "seconds": 2}.get(column, 3)
    return "∞" if math.isinf(mean) else f"{mean:.{digits}f}"


def contact_sheet(pairs: Sequence[Pair], methods: Sequence[Method], out: Path) -> Image.Image:
    """The middle of each picture: LR (enlarged without smoothing), each method, HR.

    Args:
        pairs: rows; the first `MOST_ROWS` of them are shown.
        methods: columns; their pictures are read from `out`.
        out: folder of `evaluate`.
    """
    pairs = pairs[:MOST_ROWS]
    titles = ["LR", *(method.name for method in methods)]
    if any(pair.hr for pair in pairs):
        titles.append("HR")
    sheet = Image.new("RGB", (CELL * len(titles), 16 + CELL * len(pairs)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((CELL * column + 4, 2), title, "black")
    for row, pair in enumerate(pairs):
        files = [pair.lr, *(result_path(out, m, pair.name) for m in methods)]
        for column, file in enumerate([*files, pair.hr] if pair.hr else files):
            if not file.exists():
                continue  # its row in the table names the problem
            side = CELL // 4 if column == 0 else CELL
            try:
                picture = _middle(file, side).resize((CELL, CELL), Image.Resampling.NEAREST)
            except OSError:
                continue
            sheet.paste(picture, (CELL * column, 16 + CELL * row))
    return sheet


def _middle(file: Path, side: int) -> Image.Image:
    with Image.open(file) as picture:
        rgb = picture.convert("RGB")
    side = min(side, *rgb.size)
    x, y = (rgb.width - side) // 2, (rgb.height - side) // 2
    return rgb.crop((x, y, x + side, y + side))
