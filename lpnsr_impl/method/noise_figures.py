"""Record the noise of each sampling step, and plot it with its histogram, as in Figures 2 and 4 of
the LPNSR paper.

matplotlib is imported only to draw a figure.
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
"""Noise value that is shown as white in images of noise. Its negative is shown as black."""

_PLOTTED = 4.0
_BINS = 80


class ChainRecorder:
    """Callback for `sampler.sample` that records the clean prediction and noise of each step.

    If a run is repeated, e.g. after running out of memory, its records replace the earlier ones.
    All tensors are [B,C,H,W] on the CPU.

    Args:
        schedule: schedule of the run; its kappa must be above 0.

    Attributes:
        x0_pred: {t: clean prediction}, from the first t down to 1.
        noise: {t: predicted or random noise that was added in the step t -> t-1}, from the first t
            down to 2.
        x_t: {t: state}, from the first t down to 1.
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
        """Record the initial noise of a one-step student as its only noise."""
        ((t, x_t),) = self.x_t.items()
        self.noise[t] = (x_t - y0.float().cpu()) / start_std(student, self._schedule)


def noise_picture(noise: Tensor) -> Tensor:
    """Convert the first three channels of noise to RGB. Zero is shown as grey.

    noise: [B,C,h,w] -> [B,3,h,w] in [0,1]
    """
    return (noise[:, :3] / (2 * _SHOWN) + 0.5).clamp(0, 1)


def check_matplotlib() -> None:
    """Check that matplotlib is installed.

    Raises:
        ImportError: matplotlib is missing; the message says how to install it.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError(
            "The plot of the noise needs matplotlib, which is not installed. Run 'pip install "
            "matplotlib' in the Python environment of this program, and restart it."
        )


def draw_figure(lr: Tensor, noise: Mapping[int, Tensor]) -> "Figure":
    """Plot the LR image and the noise of each step, with its histogram and N(0, 1) below.

    Args:
        lr: [1,3,h,w] in [0,1].
        noise: {t: noise of step t, [1,C,h,w]}, in the order of the columns.

    Raises:
        ImportError: matplotlib is missing.
    """
    check_matplotlib()
    from matplotlib.figure import Figure  # pyplot would keep the figure alive and load a GUI

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
        below.set_ylim(top=1.45 * below.get_ylim()[1])  # room for the legend
        below.set_yticks([])
        below.legend(fontsize=8, loc="upper left")
    for axis in axes[0]:
        axis.axis("off")
    return figure


def render(figure: "Figure", dpi: int = 110) -> Tensor:
    """Render a figure to an RGB image, [1,3,H,W] in [0,1]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    rgb = np.asarray(canvas.buffer_rgba())[:, :, :3]
    return torch.from_numpy(rgb.astype(np.float32) / 255).movedim(-1, 0)[None]


def _as_array(x: Tensor) -> np.ndarray:
    return x[0].movedim(0, -1).cpu().numpy()
