"""What the chain did at each step: its noise as pictures, and its distribution (Figures 2 and 4).

matplotlib is imported only where a figure is drawn, since nothing else at run time needs it.
"""

import importlib.util
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..config import StudentConfig
from .sampler import start_std
from .schedule import Schedule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 3.0
"""Noise of -3 is black and of 3 white."""

_PLOTTED = 4.0
_BINS = 80


class ChainRecorder:
    """A callback of `sampler.sample` that keeps the clean predictions and the noise of each step.

    A run that starts again, e.g. after running out of memory, replaces what was kept.

    Args:
        schedule: of the run; its kappa is above 0.

    Attributes:
        x0_pred: {t: [B,C,H,W]} on the CPU, from the first t to 1.
        noise: {t: [B,C,H,W]} on the CPU, what was added at the step t -> t-1, predicted or random;
            to 2.
        x_t: {t: [B,C,H,W]} on the CPU, the states.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.x0_pred: dict[int, Tensor] = {}
        self.noise: dict[int, Tensor] = {}
        self._schedule = schedule
        self.x_t: dict[int, Tensor] = {}

    def __call__(self, t: int, x_t: Tensor, x0_pred: Tensor) -> None:
        x_t, x0_pred = x_t.float().cpu(), x0_pred.float().cpu()
        before = self.x_t.get(t + 1)
        if before is not None:
            self.noise[t + 1] = self._schedule.noise_between(
                before, x_t, self.x0_pred[t + 1], t + 1
            )
        self.x_t[t] = x_t
        self.x0_pred[t] = x0_pred

    def keep_start(self, student: StudentConfig, y0: Tensor) -> None:
        """After a student's run, which adds no noise between steps: keep that of its start."""
        ((t, x_t),) = self.x_t.items()
        self.noise[t] = (x_t - y0.float().cpu()) / start_std(student, self._schedule)


def noise_picture(noise: Tensor) -> Tensor:
    """The first three channels of noise as RGB: [B,C,h,w] -> [B,3,h,w] in [0,1], 0 is grey."""
    return (noise[:, :3] / (2 * _SHOWN) + 0.5).clamp(0, 1)


def check_matplotlib() -> None:
    """Check that figures can be drawn.

    Raises:
        ImportError: matplotlib is missing; says how to install it.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError(
            "The plot of the noise needs matplotlib, which is not installed. Run 'pip install "
            "matplotlib' in the Python environment that this runs in, and start again."
        )


def draw_figure(lr: Tensor, noise: Mapping[int, Tensor]) -> "Figure":
    """LR, the noise at each step as a picture, and below its distribution beside N(0, 1).

    Args:
        lr: [1,3,h,w] in [0,1].
        noise: {t: [1,C,h,w]}, in the order of the columns.

    Raises:
        ImportError: matplotlib is missing.
    """
    check_matplotlib()
    from matplotlib.figure import Figure  # not pyplot, which keeps figures and picks a window

    columns = len(noise) + 1
    figure = Figure(figsize=(3.2 * columns, 5.2), layout="constrained")
    axes = figure.subplots(2, columns, squeeze=False)
    axes[0, 0].imshow(_as_array(lr))
    axes[0, 0].set_title("LR")
    axes[1, 0].axis("off")
    x = np.linspace(-_PLOTTED, _PLOTTED, 200)
    normal = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    for column, (t, n) in enumerate(noise.items(), start=1):
        axes[0, column].imshow(_as_array(noise_picture(n)))
        axes[0, column].set_title(f"noise at t = {t}")
        values = n.flatten().cpu().numpy()
        label = f"mean {values.mean():+.3f}\nstd {values.std():.3f}"
        below = axes[1, column]
        shape = {"bins": _BINS, "range": (-_PLOTTED, _PLOTTED), "density": True}
        below.hist(values, **shape, color="tab:blue", alpha=0.7, label=label)
        below.plot(x, normal, "k--", linewidth=1, label="N(0, 1)")
        below.set_ylim(top=1.45 * below.get_ylim()[1])  # the legend hides nothing
        below.set_yticks([])
        below.legend(fontsize=8, loc="upper left")
    for axis in axes[0]:
        axis.axis("off")
    return figure


def render(figure: "Figure", dpi: int = 110) -> Tensor:
    """A figure as [1,3,H,W] in [0,1]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    rgb = np.asarray(canvas.buffer_rgba())[:, :, :3]
    return torch.from_numpy(rgb.astype(np.float32) / 255).movedim(-1, 0)[None]


def _as_array(x: Tensor) -> np.ndarray:
    return x[0].movedim(0, -1).cpu().numpy()
