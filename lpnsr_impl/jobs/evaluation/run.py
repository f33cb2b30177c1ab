"""Evaluates methods on pictures, and writes PNG and CSV files. Interrupted runs can be resumed."""

import csv
import io
import json
import logging
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from ...config import SCALE
from ...files.whole import written_whole
from ...pictures.picture import Picture
from ...pictures.reading import picture_files, read_picture, to_pil
from ..upscaler import Method, Upscaler
from .metrics import METRICS, Measurer

logger = logging.getLogger(__name__)

COLUMNS = ["method", "picture", *(metric.label for metric in METRICS), "seconds", "problem"]
Row = dict[str, str]


@dataclass(frozen=True)
class Pair:
    """An LR picture and, if there is one, the HR picture to compare its result with."""

    name: str
    lr: Path
    hr: Path | None


def find_pairs(lr: Path, hr: Path | None, leave_out: Path | None = None) -> list[Pair]:
    """Find the LR pictures of a folder, and the HR picture of each.

    An HR picture has the name of its LR picture, with any suffix.

    Args:
        lr, hr: folders.
        leave_out: subfolder of `lr` whose pictures are left out.

    Raises:
        ValueError: a folder has no pictures, or two LR pictures differ only in their suffix.
    """
    hr_paths = {path.stem: path for path in picture_files(hr)} if hr else {}
    pairs: dict[str, Pair] = {}
    for path in picture_files(lr):
        if leave_out and leave_out.resolve() in path.resolve().parents:
            continue
        if path.stem in pairs:
            raise ValueError(f"{lr} has two pictures named {path.stem}. Rename one.")
        pairs[path.stem] = Pair(path.stem, path, hr_paths.get(path.stem))
        if hr and path.stem not in hr_paths:
            logger.warning(
                "%s has no HR picture in %s; PSNR, SSIM and LPIPS are left out.", path.name, hr
            )
    return list(pairs.values())


def evaluate(
    upscaler: Upscaler,
    methods: Sequence[Method],
    pairs: Sequence[Pair],
    measurer: Measurer,
    out: Path,
    settings: dict[str, object],
) -> list[Row]:
    """Run every method on every picture, and skip results that already exist.

    If a picture fails, its row contains the problem instead of values, and the next run retries it.

    Args:
        upscaler: networks.
        methods: methods to compare.
        pairs: pictures.
        measurer: metrics.
        out: folder for `results.csv` and `pictures/METHOD/NAME.png`.
        settings: other settings that the results depend on, such as the model files. They are
            saved in `settings.json`.

    Returns:
        Rows of all results, in the order of methods and pictures.

    Raises:
        ValueError: `out` has results with other settings.
    """
    out.mkdir(parents=True, exist_ok=True)
    _check_settings(out, {**settings, "methods": {m.name: asdict(m) for m in methods}})
    table = out / "results.csv"
    rows = {(row["method"], row["picture"]): row for row in _read(table) if not row["problem"]}
    todo = [(m, p) for m in methods for p in pairs if (m.name, p.name) not in rows]
    for i, (method, pair) in enumerate(todo):
        row = _evaluate_one(upscaler, method, pair, measurer, out)
        rows[method.name, pair.name] = row
        _write(table, rows.values())
        logger.info("%d of %d: %s, %s%s", i + 1, len(todo), method.name, pair.name,
                    f": {row['problem']}" if row["problem"] else "")  # fmt: skip
    return [rows[m.name, p.name] for m in methods for p in pairs]


def result_path(out: Path, method: Method, name: str) -> Path:
    """Return the path of a method's result for the picture `name`."""
    folder = re.sub(r'[<>:"/\\|?*]', "-", method.name)  # characters that Windows does not allow
    return out / "pictures" / folder / f"{name}.png"


def read_pair(pair: Pair) -> tuple[Tensor, Tensor | None]:
    """Read LR [1,3,h,w] and HR [1,3,4h,4w] (or None), in [0,1].

    Raises:
        OSError: a file can't be read.
        ValueError: HR is not four times as large as LR.
    """
    lr = read_picture(pair.lr)[None]
    hr = None if pair.hr is None else read_picture(pair.hr)[None]
    if hr is not None and hr.shape[2:] != (SCALE * lr.shape[2], SCALE * lr.shape[3]):
        raise ValueError(
            f"HR is {hr.shape[3]}x{hr.shape[2]}, expected {SCALE} times LR's "
            f"{lr.shape[3]}x{lr.shape[2]}"
        )
    return lr, hr


def _evaluate_one(
    upscaler: Upscaler, method: Method, pair: Pair, measurer: Measurer, out: Path
) -> Row:
    row = dict.fromkeys(COLUMNS, "") | {"method": method.name, "picture": pair.name}
    try:
        lr, hr = read_pair(pair)
        start_time = time.perf_counter()
        sr = upscaler.upscale(Picture(lr), method)
        seconds = time.perf_counter() - start_time
        sr = (sr * 255).round() / 255
        path = result_path(out, method, pair.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        to_pil(sr).save(path)
        values = measurer.measure(sr, hr)
    except Exception as e:  # noqa: BLE001  (the other pictures are still evaluated)
        return row | {"problem": str(e) or type(e).__name__}
    return (
        row
        | {label: f"{value:.6g}" for label, value in values.items()}
        | {"seconds": f"{seconds:.3f}"}
    )


def _check_settings(out: Path, settings: dict[str, object]) -> None:
    """Save the settings, or raise ValueError if the folder has results with other settings.

    The new settings may contain methods in addition to those of the results.
    """
    path = out / "settings.json"
    now = json.loads(json.dumps(settings))
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        now["methods"] = before["methods"] | now["methods"]
        changed = [key for key in now if key != "methods" and now[key] != before.get(key)]
        changed += [m for m in before["methods"] if before["methods"][m] != now["methods"][m]]
        if changed:
            raise ValueError(
                f"{out} has results with other settings ({', '.join(changed)} changed). Give "
                "another folder, or delete this one."
            )
    with written_whole(path) as file:
        file.write(json.dumps(now, indent=2).encode())


def _read(table: Path) -> list[Row]:
    if not table.exists():
        return []
    with table.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["seconds"] or row["problem"]]


def _write(table: Path, rows: Iterable[Row]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    with written_whole(table) as file:
        file.write(text.getvalue().encode())
