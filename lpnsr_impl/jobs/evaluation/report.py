"""Creates Markdown tables with the mean metrics of each method, and contact sheets."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from ..upscaler import Method
from .metrics import METRICS
from .run import Pair, Row, result_path

MAX_ROWS = 24
"""Maximum number of pictures on a contact sheet."""
CELL = 256
"""Height and width of the crops on a contact sheet, in HR pixels."""


def markdown_table(rows: Sequence[Row], missing: Mapping[str, str]) -> str:
    """Create a table with the means of each method, followed by a list of problems.

    Each mean is over the pictures for which the metric has a value. Column `n` is the number of
    pictures without a problem.

    Args:
        rows: rows that `evaluate` returned.
        missing: metrics that could not be loaded, with the reason.
    """
    arrows = {m.label: f"{m.label} {'↑' if m.higher_is_better else '↓'}" for m in METRICS}
    columns = [*arrows, "seconds"]
    names = list(dict.fromkeys(row["method"] for row in rows))
    lines = [
        f"| method | {' | '.join(arrows.get(c, c) for c in columns)} | n |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for name in names:
        good = [row for row in rows if row["method"] == name and not row["problem"]]
        cells = [
            _format_mean([row[column] for row in good if row[column]], column) for column in columns
        ]
        lines.append(f"| {name} | {' | '.join(cells)} | {len(good)} |")
    notes = [f"- {label} is empty: {reason}" for label, reason in missing.items()]
    notes += [
        f"- {row['method']}, {row['picture']}: left out, {row['problem']}"
        for row in rows
        if row["problem"]
    ]
    return "\n".join([*lines, "", *notes]).strip() + "\n"


def _format_mean(values: Sequence[str], column: str) -> str:
    if not values:
        return ""
    mean = sum(float(value) for value in values) / len(values)
    digits = {"PSNR": 2, "SSIM": 4, "LPIPS": 4, "seconds": 2}.get(column, 3)
    return "∞" if math.isinf(mean) else f"{mean:.{digits}f}"


def contact_sheet(pairs: Sequence[Pair], methods: Sequence[Method], out: Path) -> Image.Image:
    """Draw the centre of each picture: LR (nearest-neighbour upsampled), each method, and HR.

    Args:
        pairs: pictures, one per row; only the first `MAX_ROWS` are drawn.
        methods: methods, one per column.
        out: folder that `evaluate` wrote the results to.
    """
    pairs = pairs[:MAX_ROWS]
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
                continue  # `markdown_table` reports the problem
            side = CELL // 4 if column == 0 else CELL
            try:
                picture = _crop_centre(file, side).resize((CELL, CELL), Image.Resampling.NEAREST)
            except OSError:
                continue
            sheet.paste(picture, (CELL * column, 16 + CELL * row))
    return sheet


def _crop_centre(file: Path, side: int) -> Image.Image:
    with Image.open(file) as picture:
        rgb = picture.convert("RGB")
    side = min(side, *rgb.size)
    x, y = (rgb.width - side) // 2, (rgb.height - side) // 2
    return rgb.crop((x, y, x + side, y + side))
