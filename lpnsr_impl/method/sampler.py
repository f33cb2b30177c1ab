"""The sampling loop of LPNSR (paper, Algorithm 2 and Eq. 3, 5-7 and 11), and the single step of
distilled students. The nodes and the trainer both use this module."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, get_args

import torch
from torch import Tensor

from ..config import LPNSR_SCHEDULE, PredictorMode, StudentConfig
from .schedule import Schedule

Denoiser = Callable[[Tensor, int, Tensor], Tensor]
NoisePredictor = Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]
NoiseSource = Callable[[str, int, torch.Size], Tensor]

ALL_ON: Mapping[int, bool] = {4: True, 3: True, 2: True}


@dataclass(frozen=True)
class Sampling:
    """Settings of a sampling run.

    Attributes:
        seed: seed of the noise, 0 to 2^64 - 1. All images of a batch get the same noise.
        steps: number of steps, 1 to T. One-step students ignore it.
        kappa: noise scale.
        predictor_on: whether to predict the noise of step t, for t = 4, 3 and 2.
        predictor_mode: see `sample`.
    """

    seed: int = 0
    steps: int = 4
    kappa: float = 2.0
    predictor_on: Mapping[int, bool] = field(default_factory=lambda: dict(ALL_ON))
    predictor_mode: PredictorMode = "sample"

    def switches(self, num_timesteps: int, has_predictor: bool) -> Mapping[int, bool]:
        """Adapt `predictor_on` to networks of T steps, see `switches_for`.

        Without a noise predictor, all switches are off if T is not 4.

        Args:
            num_timesteps: T.
            has_predictor: whether there is a noise predictor.

        Raises:
            ValueError: `steps` is above T; or T is 4, a switch is on, and there is no noise
                predictor.
        """
        if self.steps > num_timesteps:
            raise ValueError(
                f"steps is {self.steps}, but this denoiser has {num_timesteps} steps. Set steps to "
                f"{num_timesteps} or less."
            )
        if num_timesteps != LPNSR_SCHEDULE.num_timesteps and not has_predictor:
            return {}
        switches = switches_for(num_timesteps, self.predictor_on)
        predictor_at = predictor_steps(self.steps, switches)
        if predictor_at and not has_predictor:
            raise ValueError(
                f"The noise predictor is switched on at t = {', '.join(map(str, predictor_at))}, "
                "but noise_predictor is 'none'. Choose a noise predictor when loading the models, "
                "or switch it off."
            )
        return switches


class StepCallback(Protocol):
    """Function called in each step, after the denoiser. An exception in it cancels the run."""

    def __call__(self, t: int, x_t: Tensor, x0_pred: Tensor) -> None: ...


def sample(
    denoiser: Denoiser,
    noise_predictor: NoisePredictor | None,
    schedule: Schedule,
    y0: Tensor,
    lr: Tensor,
    *,
    steps: int = 4,
    predictor_on: Mapping[int, bool] = ALL_ON,
    predictor_mode: PredictorMode = "sample",
    noise: NoiseSource,
    callback: StepCallback | None = None,
) -> Tensor:
    """Sample from t = `steps` down to the clean latent (paper, Algorithm 2).

    Args:
        denoiser: f_theta(x_scaled, t_index, lr) -> x0_pred.
        noise_predictor: g_w(x_t, x0_pred, lr, t_index) -> (mean, logvar). May be None if
            `predictor_on` is False for all steps.
        schedule: schedule with the kappa of this run.
        y0: latent of the pre-upsampled image, [B,C,h,w].
        lr: low-resolution image in [-1,1], [B,3,h,w].
        steps: number of steps, 1...T, and the t of the first one. The schedule is not respaced.
        predictor_on: whether to predict the noise of step t, for t = 2...steps. Steps that are
            missing or False get Gaussian noise.
        predictor_mode: "sample" draws from N(mean, exp(logvar)), "mean" uses the mean.
        noise: noise(kind, t, shape) -> standard normal tensor. It is called once with the kind
            "init" at t = steps, and with the kind "step" in each step that needs random noise.
        callback: called as callback(t, x_t, x0_pred) in every step.

    Returns:
        x0, [B,C,h,w].

    Raises:
        ValueError: an argument is out of range, shapes do not match, or `predictor_on` is True
            for a step and there is no noise predictor.
    """
    _check(noise_predictor, schedule, y0, lr, steps, predictor_on, predictor_mode)

    def step_noise(t: int, x_t: Tensor, x0_pred: Tensor) -> Tensor:
        if noise_predictor is None or not predictor_on.get(t, False):
            return _draw(noise, "step", t, y0)
        mean, logvar = noise_predictor(x_t, x0_pred, lr, t - 1)
        if predictor_mode == "mean":
            return mean
        return mean + torch.exp(0.5 * logvar) * _draw(noise, "step", t, y0)

    x_t = schedule.initial_state(y0, _draw(noise, "init", steps, y0), steps)
    x0_pred = y0
    for t in range(steps, 0, -1):
        x0_pred = denoiser(schedule.scale_input(x_t, t), t - 1, lr)
        if callback:
            callback(t, x_t, x0_pred)
        if t > 1:
            n_t = step_noise(t, x_t, x0_pred)
            x_t = schedule.posterior_mean(x_t, x0_pred, t) + schedule.posterior_std(t) * n_t
    return x0_pred


def sample_once(
    denoiser: Denoiser,
    student: StudentConfig,
    schedule: Schedule,
    y0: Tensor,
    lr: Tensor,
    *,
    noise: NoiseSource,
    callback: StepCallback | None = None,
) -> Tensor:
    """Sample with a one-step student, which predicts the clean latent directly from x_T.

    SinSR starts like its teacher (paper, Eq. 3). RSD (arXiv 2503.13358) uses initial noise with
    the standard deviation kappa, and its input has additional noise channels::

        SinSR:  x_T = y0 + kappa sqrt(eta_T) z    c = lr
        RSD:    x_T = y0 + kappa z                c = [lr, eps] or [y0, eps]
        x0 = f(x_T / sqrt(eta_T kappa^2 + 1), T - 1, c)

    Args:
        denoiser: f(x_scaled, t_index, c) -> x0_pred, called once.
        student: config of the student.
        schedule: the teacher's schedule, with the kappa of this run.
        y0: latent of the pre-upsampled image, [B,C,h,w].
        lr: low-resolution image in [-1,1], [B,3,h,w].
        noise: noise(kind, T, shape) -> standard normal tensor. `kind` is "init" for z, [B,C,h,w],
            and "plane" for eps, [B,noise_planes,h,w].
        callback: called as callback(T, x_T, x0_pred).

    Returns:
        x0, [B,C,h,w].

    Raises:
        ValueError: shapes do not match.
    """
    _check_shapes(y0, lr)
    t = schedule.num_timesteps
    x_t = y0 + start_std(student, schedule) * _draw(noise, "init", t, y0)
    condition = y0 if student.condition == "latent" else lr
    if student.noise_planes:
        planes = y0.new_empty(len(y0), student.noise_planes, *y0.shape[2:])
        condition = torch.cat([condition, _draw(noise, "plane", t, planes)], dim=1)
    x0_pred = denoiser(schedule.scale_input(x_t, t), t - 1, condition)
    if callback:
        callback(t, x_t, x0_pred)
    return x0_pred


def start_std(student: StudentConfig, schedule: Schedule) -> float:
    """Return the standard deviation of a one-step student's initial noise."""
    return schedule.kappa if student.full_noise else schedule.marginal_std(schedule.num_timesteps)


def predictor_steps(steps: int, predictor_on: Mapping[int, bool]) -> list[int]:
    """List each t, from high to low, at which a run of `steps` steps calls the noise predictor."""
    return [t for t in range(steps, 1, -1) if predictor_on.get(t, False)]


def switches_for(num_timesteps: int, predictor_on: Mapping[int, bool]) -> Mapping[int, bool]:
    """Adapt the noise predictor's switches for t = 4, 3 and 2 to a schedule of T steps.

    If T is not 4, the predictor is on in every step if any switch is on, and off otherwise.
    """
    if num_timesteps == LPNSR_SCHEDULE.num_timesteps:
        return predictor_on
    return dict.fromkeys(range(2, num_timesteps + 1), any(predictor_on.values()))


def _check(
    noise_predictor: NoisePredictor | None,
    schedule: Schedule,
    y0: Tensor,
    lr: Tensor,
    steps: int,
    predictor_on: Mapping[int, bool],
    predictor_mode: str,
) -> None:
    if not 1 <= steps <= schedule.num_timesteps:
        raise ValueError(f"steps is {steps}, expected 1 to {schedule.num_timesteps}.")
    if predictor_mode not in get_args(PredictorMode):
        raise ValueError(
            f"predictor_mode is {predictor_mode!r}, expected one of {get_args(PredictorMode)}."
        )
    last = max(schedule.num_timesteps, *ALL_ON)
    unknown = [t for t in predictor_on if t not in range(1, last + 1)]
    if unknown:
        raise ValueError(
            f"predictor_on has the keys {unknown}, expected integers from 2 to {last}."
        )
    _check_shapes(y0, lr)
    switched_on = predictor_steps(steps, predictor_on)
    if noise_predictor is None and switched_on:
        raise ValueError(
            f"predictor_on is set for t = {switched_on}, but there is no noise predictor. Pass "
            "one, or switch these steps off."
        )


def _check_shapes(y0: Tensor, lr: Tensor) -> None:
    if y0.ndim != 4 or lr.ndim != 4 or y0.shape[0] != lr.shape[0] or y0.shape[2:] != lr.shape[2:]:
        raise ValueError(
            f"y0 is {tuple(y0.shape)} and lr {tuple(lr.shape)}, expected [B,C,h,w] and [B,3,h,w] "
            "with equal B, h, w."
        )


def _draw(noise: NoiseSource, kind: str, t: int, like: Tensor) -> Tensor:
    """Draw noise with the shape, device and dtype of `like`."""
    n = noise(kind, t, like.shape)
    if n.shape != like.shape:
        raise ValueError(
            f"noise({kind!r}, {t}) has shape {tuple(n.shape)}, expected {tuple(like.shape)}."
        )
    return n.to(like, non_blocking=like.is_cuda)  # do not wait for the GPU
