"""The predicted noise: Figures 2 and 4, and how far it is from the optimum of Eq. 9."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...engine.noise import continued_noise, seeded_noise
from ...engine.pipeline import encode_start
from ...engine.upscaler import Upscaler
from ...method.noise_figures import draw_figure
from ...method.sampler import ALL_ON, sample, switches_for
from ...method.schedule import Schedule
from ...pictures.images import bicubic_upsample, reflect_pad, to_pm1
from .run import Pair, read_pair


@dataclass
class StepNoise:
    """The noise of the step t -> t-1 in one run; latents are [1,C,h,w].

    `optimal` is Eq. 9's, None without an HR picture. In the run itself n = mean + exp(logvar / 2)
    eps was used.
    """

    t: int
    mean: Tensor
    used: Tensor
    optimal: Tensor | None

    def distance(self) -> tuple[float, float, float] | None:
        """Squared error from the optimum, over the optimum's power: of the mean, of the noise used,
        and of Gaussian noise (which adds 1 / power). Mean 0 has 1."""
        if self.optimal is None:
            return None
        power = float(self.optimal.square().mean())
        of_mean = float((self.mean - self.optimal).square().mean()) / power
        of_used = float((self.used - self.optimal).square().mean()) / power
        return of_mean, of_used, 1 + 1 / power


@torch.no_grad()
def record_noise(upscaler: Upscaler, lr: Tensor, hr: Tensor | None, seed: int) -> list[StepNoise]:
    """Run the chain from bicubic with the predictor on, and keep what it predicted.

    Args:
        upscaler: networks; it needs a noise predictor.
        lr: [1,3,h,w] in [0,1].
        hr: [1,3,4h,4w] in [0,1], or None.
        seed: of the noise.

    Returns:
        Steps from t = T to 2.

    Raises:
        ValueError: there is no noise predictor.
    """
    predictor = upscaler.noise_predictor
    if predictor is None:
        raise ValueError("These models have no noise predictor; give one to show its noise.")
    schedule = Schedule(**vars(upscaler.denoiser.schedule))
    lr, hr = lr.to(upscaler.device), None if hr is None else hr.to(upscaler.device)
    h, w = lr.shape[2:]
    size = upscaler.denoiser.config.padded(h, w)
    y0 = encode_start(upscaler.autoencoder, bicubic_upsample(lr), size)
    x0 = None if hr is None else encode_start(upscaler.autoencoder, hr, size)
    steps: list[StepNoise] = []
    source = continued_noise(seeded_noise(seed, schedule.num_timesteps), h, w)

    def watched(x_t: Tensor, x0_pred: Tensor, lr: Tensor, t_index: int) -> tuple[Tensor, Tensor]:
        mean, logvar = predictor(x_t, x0_pred, lr, t_index)
        t = t_index + 1
        used = mean + torch.exp(0.5 * logvar) * source("step", t, mean.shape).to(mean)
        optimal = None if x0 is None else schedule.optimal_noise(x0, y0, x_t, x0_pred, t)
        optimal = None if optimal is None else optimal[:, :, :h, :w].cpu()
        steps.append(StepNoise(t, mean[:, :, :h, :w].cpu(), used[:, :, :h, :w].cpu(), optimal))
        return mean, logvar

    padded = reflect_pad(to_pm1(lr), *y0.shape[2:])
    sample(
        upscaler.denoiser,
        watched,
        schedule,
        y0,
        padded,
        steps=schedule.num_timesteps,
        predictor_on=switches_for(schedule.num_timesteps, ALL_ON),
        noise=source,
    )
    return steps


def noise_experiment(upscaler: Upscaler, pairs: Sequence[Pair], out: Path, seed: int) -> str:
    """Write one figure a picture into `out/noise`; return a Markdown table of all pictures."""
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
    for t, of_t in records.items():
        used = torch.cat([step.used.flatten() for step in of_t])
        means = torch.cat([step.mean.flatten() for step in of_t])
        distances = [d for step in of_t if (d := step.distance())]
        errors = np.mean(distances, axis=0) if distances else []
        cells = [f"{used.mean():+.3f}", f"{used.std():.3f}", f"{means.std():.3f}"]
        cells += [f"{error:.3f}" for error in errors] or ["", "", ""]
        lines.append(f"| {t} | {' | '.join(cells)} |")
    lines += [
        "",
        "Errors are squared, from Eq. 9's optimum, over its power: 1 is as far as no noise.",
        *problems,
    ]
    return "\n".join(lines) + "\n"
