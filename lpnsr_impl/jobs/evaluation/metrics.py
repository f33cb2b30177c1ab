"""The paper's seven metrics, by pyiqa: PSNR and SSIM on Y with a border of 4, the others in sRGB.

A metric whose weights can't be had is left out and named with the reason; nothing takes its place.
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
"""Mean and covariance of natural pictures, as published with NIQE; see README.md beside it."""

BORDER = 4
_ON_Y: dict[str, Any] = {"test_y_channel": True, "color_space": "ycbcr", "crop_border": BORDER}


@dataclass(frozen=True)
class Metric:
    """A metric's name in tables, in pyiqa, and what it needs."""

    label: str
    pyiqa_name: str
    higher_is_better: bool
    needs_hr: bool
    options: dict[str, Any]
    smallest: int = 2 * BORDER + 16  # side of a picture that it can measure


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
    """Loads the metrics once.

    Args:
        names: labels of the metrics wanted; None for all.

    Attributes:
        missing: {label: why it can't be had}.

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
        except Exception as e:  # noqa: BLE001  (pyiqa and its downloaders raise many kinds)
            reason = f"pyiqa could not load {metric.pyiqa_name}: {type(e).__name__}, {_line(e)}"
            self.missing[metric.label] = reason
            logger.warning("%s is left out: %s", metric.label, reason)
            return
        self._loaded[metric.label] = loaded

    @property
    def labels(self) -> list[str]:
        """Of the metrics that are loaded."""
        return list(self._loaded)

    @torch.no_grad()
    def measure(self, sr: Tensor, hr: Tensor | None) -> dict[str, float]:
        """Each metric that is loaded, can measure the size, and has the HR picture it needs.

        Args:
            sr: [1,3,H,W] in [0,1].
            hr: the same shape, or None.

        Returns:
            {label: value}; PSNR of equal pictures is infinite.

        Raises:
            ValueError: sr and hr differ in size.
        """
        if hr is not None and hr.shape != sr.shape:
            raise ValueError(f"The result is {_size(sr)} and the HR picture {_size(hr)}.")
        values: dict[str, float] = {}
        for metric in METRICS:
            loaded = self._loaded.get(metric.label)
            if loaded is None or (metric.needs_hr and hr is None):
                continue
            if min(sr.shape[2:]) < metric.smallest:
                logger.warning("%s can't measure %s.", metric.label, _size(sr))
                continue
            if metric.label == "PSNR" and hr is not None and torch.equal(sr, hr):
                values["PSNR"] = math.inf  # pyiqa adds a small number and gives 80 dB
                continue
            values[metric.label] = float(loaded(sr, hr) if metric.needs_hr else loaded(sr))
        return values


def _size(x: Tensor) -> str:
    return f"{x.shape[3]}x{x.shape[2]}"


def _line(e: Exception) -> str:
    return (str(e).splitlines() or [""])[0][:160]
