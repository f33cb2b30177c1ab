"""The seven metrics of the LPNSR paper, computed by pyiqa.

PSNR and SSIM use the Y channel and ignore a border of 4 pixels; the other metrics use sRGB. A
metric that can't be loaded is left out, and the reason is reported.
"""

import contextlib
import io
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

NIQE_PARAMETERS = Path(__file__).with_name("niqe_pristine.mat")
"""Mean and covariance of features of natural pictures, as published with NIQE; see README.md."""

BORDER = 4
_ON_Y: dict[str, Any] = {"test_y_channel": True, "color_space": "ycbcr", "crop_border": BORDER}


@dataclass(frozen=True)
class Metric:
    """An image quality metric.

    Attributes:
        label: name in tables.
        pyiqa_name: name in pyiqa.
        higher_is_better: whether a higher value is better.
        needs_hr: whether it compares with an HR picture.
        options: arguments for pyiqa.
        min_size: minimum height and width of a picture.
    """

    label: str
    pyiqa_name: str
    higher_is_better: bool
    needs_hr: bool
    options: dict[str, Any]
    min_size: int = 2 * BORDER + 16


METRICS = (
    Metric("PSNR", "psnr", True, True, _ON_Y),
    Metric("SSIM", "ssim", True, True, _ON_Y),
    Metric("LPIPS", "lpips-vgg", False, True, {}),
    Metric("NIQE", "niqe", False, False, {"pretrained_model_path": str(NIQE_PARAMETERS)}, 96),
    Metric("PI", "pi", False, False, {}),
    Metric("CLIPIQA", "clipiqa", True, False, {}),
    Metric("MUSIQ", "musiq", True, False, {}),
)


class Measurer:
    """Loads metrics once and measures pictures.

    Args:
        names: labels of the metrics; None for all.

    Attributes:
        missing: metrics that could not be loaded, {label: reason}.

    Raises:
        ValueError: a label is unknown.
    """

    def __init__(self, names: list[str] | None = None) -> None:
        labels = [metric.label for metric in METRICS]
        unknown = set(names or []) - set(labels)
        if unknown:
            raise ValueError(f"Unknown metrics {sorted(unknown)}, expected some of {labels}.")
        self._loaded: dict[str, torch.nn.Module] = {}
        self.missing: dict[str, str] = {}
        for metric in METRICS:
            if names is None or metric.label in names:
                self._load(metric)

    def _load(self, metric: Metric) -> None:
        import pyiqa

        logging.getLogger("pyiqa").setLevel(logging.WARNING)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                loaded = pyiqa.create_metric(
                    metric.pyiqa_name, device=torch.device("cpu"), **metric.options
                )
        except Exception as e:  # noqa: BLE001  (pyiqa raises various types)
            message = _first_line(e)
            reason = f"pyiqa could not load {metric.pyiqa_name}: {type(e).__name__}, {message}"
            self.missing[metric.label] = reason
            logger.warning("The metric %s is left out: %s", metric.label, reason)
            return
        self._loaded[metric.label] = loaded

    @property
    def labels(self) -> list[str]:
        """Labels of the loaded metrics."""
        return list(self._loaded)

    @torch.no_grad()
    def measure(self, sr: Tensor, hr: Tensor | None) -> dict[str, float]:
        """Measure a picture.

        Metrics that need an HR picture are left out if there is none. Metrics that need a larger
        picture are left out with a warning.

        Args:
            sr: result, [1,3,H,W] in [0,1].
            hr: HR picture of the same shape, or None.

        Returns:
            {label: value}. The PSNR of equal pictures is infinite.

        Raises:
            ValueError: sr and hr differ in size.
        """
        if hr is not None and hr.shape != sr.shape:
            raise ValueError(
                f"The result is {_format_size(sr)} and the HR picture {_format_size(hr)}, expected "
                "equal sizes."
            )
        values: dict[str, float] = {}
        for metric in METRICS:
            loaded = self._loaded.get(metric.label)
            if loaded is None or (metric.needs_hr and hr is None):
                continue
            if min(sr.shape[2:]) < metric.min_size:
                logger.warning(
                    "The metric %s is left out: the picture is %s, expected at least %dx%d.",
                    metric.label,
                    _format_size(sr),
                    metric.min_size,
                    metric.min_size,
                )
                continue
            if metric.label == "PSNR" and hr is not None and torch.equal(sr, hr):
                values["PSNR"] = math.inf  # pyiqa's epsilon would limit the PSNR to 80 dB
                continue
            values[metric.label] = float(loaded(sr, hr) if metric.needs_hr else loaded(sr))
        return values


def _format_size(x: Tensor) -> str:
    return f"{x.shape[3]}x{x.shape[2]}"


def _first_line(e: Exception) -> str:
    return (str(e).splitlines() or [""])[0][:160]
