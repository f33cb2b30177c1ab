"""Draws the predicted noise (Figures 2 and 4 of the LPNSR paper), and compares it with the optimal
noise (paper, Eq. 9)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...method.noise_figures import ChainRecorder, draw_figure
from ...method.sampler import Sampling
from ...pictures.images import padded_size, reflect_pad, to_pm1
from ...pictures.picture import Picture, upsample_bicubic
from ..upscaler import Upscaler
from .run import Pair, read_pair


@dataclass
class StepNoise:
    """Noise of a sampling step from t to t-1. All tensors are [1,C,h,w].

    Attributes:
        t: the step.
        mean: predicted mean.
        used: noise that the step added, mean + exp(logvar / 2) eps.
        optimal: optimal noise (paper, Eq. 9), or None without an HR picture.
    """

    t: int
    mean: Tensor
    used: Tensor
    optimal: Tensor | None

    def errors(self) -> tuple[float, float, float] | None:
        """Compute mean squared errors, divided by the mean square of the optimal noise.

        Predicting zeros would give an error of 1.

        Returns:
            Errors of the predicted mean and of `used`, and the expected error of Gaussian noise.
            None if the optimal noise is unknown.
        """
        if self.optimal is None:
            return None
        power = float(self.optimal.square().mean())
        mean_error = float((self.mean - self.optimal).square().mean()) / power
        used_error = float((self.used - self.optimal).square().mean()) / power
        return mean_error, used_error, 1 + 1 / power


@torch.no_grad()
def record_noise(upscaler: Upscaler, lr: Tensor, hr: Tensor | None, seed: int) -> list[StepNoise]:
    """Run all steps from bicubic upsampling, with the noise predictor, and record their noise.

    Args:
        upscaler: networks, including a noise predictor.
        lr: [1,3,h,w] in [0,1].
        hr: [1,3,4h,4w] in [0,1], or None.
        seed: seed of the noise.

    Returns:
        The noise of the steps from t = T to 2.

    Raises:
        ValueError: there is no noise predictor.
    """
    predictor = upscaler.noise_predictor
    if predictor is None:
        raise ValueError("The noise experiment needs a noise predictor. Give --noise-predictor.")
    engine, picture = upscaler.engine, Picture(lr)
    schedule, device = engine.schedule(), upscaler.device
    y0 = engine.encode(engine.make_starts(picture, upsample_bicubic), picture)
    x0 = None if hr is None else engine.encode([hr], picture)
    run = ChainRecorder(schedule)
    engine.sample(y0, picture, Sampling(seed, steps=schedule.num_timesteps), run)
    h, w = lr.shape[2:]
    size = padded_size(h, w, predictor.config.tile_multiple)
    steps: list[StepNoise] = []
    for t, noise in run.noise.items():
        inputs = (reflect_pad(x, *size) for x in (run.x_t[t], run.x0_pred[t], to_pm1(lr)))
        mean, _ = predictor(*(x.to(device) for x in inputs), t - 1)
        optimal = None
        if x0 is not None:
            optimal = schedule.optimal_noise(x0, y0, run.x_t[t], run.x0_pred[t], t)
        steps.append(StepNoise(t, mean[:, :, :h, :w].cpu(), noise, optimal))
    return steps


def noise_experiment(upscaler: Upscaler, pairs: Sequence[Pair], out: Path, seed: int) -> str:
    """Write a figure for each picture to `out/noise`.

    Returns:
        A Markdown table with the statistics of each step over all pictures.
    """
    (out / "noise").mkdir(parents=True, exist_ok=True)
    records: dict[int, list[StepNoise]] = {}
    problems: list[str] = []
    for pair in pairs:
        try:
            lr, hr = read_pair(pair)
        except (OSError, ValueError) as e:
            problems.append(f"- {pair.name}: left out, {e}")
            continue
        steps = record_noise(upscaler, lr, hr, seed)
        figure = draw_figure(lr, {step.t: step.used for step in steps})
        figure.savefig(out / "noise" / f"{pair.name}.png", dpi=110)
        for step in steps:
            records.setdefault(step.t, []).append(step)
    lines = [
        "| t | mean | std | std of the mean map | error of mean | error of noise used | error of "
        "random noise |",
        "|---|---|---|---|---|---|---|",
    ]
    for t, steps in records.items():
        used = torch.cat([step.used.flatten() for step in steps])
        means = torch.cat([step.mean.flatten() for step in steps])
        errors = [e for step in steps if (e := step.errors())]
        mean_errors = np.mean(errors, axis=0) if errors else []
        cells = [f"{used.mean():+.3f}", f"{used.std():.3f}", f"{means.std():.3f}"]
        cells += [f"{error:.3f}" for error in mean_errors] or ["", "", ""]
        lines.append(f"| {t} | {' | '.join(cells)} |")
    lines += [
        "",
        "Errors are mean squared differences from the optimal noise of Eq. 9, divided by the mean "
        "square of the optimal noise. Predicting zeros would give an error of 1.",
        *problems,
    ]
    return "\n".join(lines) + "\n"
