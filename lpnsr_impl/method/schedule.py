"""Residual-shifting schedule and its Gaussian distributions (LPNSR paper, Eq. 1-9 and 21).

`t` is the paper's step, 1...T. Tables are float64 and indexed by `t - 1`.
"""

import math

import torch
from torch import Tensor

from ..config import ScheduleConfig

TRAINED_KAPPA = 2.0


class Schedule:
    """Shifting sequence eta_t, and the distributions that follow from it in closed form.

    Args:
        num_timesteps: T, the number of steps the networks were trained for; at least 2.
        kappa: noise scale of Eq. 1, 3 and 6; 0 or more. It does not change eta.
        min_noise_level: noise level at t = 1, which determines `sqrt_eta[0]`; above 0.
        sqrt_eta_end: sqrt(eta_T), above `sqrt_eta[0]` and at most 1.
        power: exponent p of the growth of log(eta) from t = 1 to T; above 0.

    Attributes:
        sqrt_eta, eta, alpha: float64 tensors [T]; entry `t - 1` belongs to step t.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        num_timesteps: int = ScheduleConfig.num_timesteps,
        kappa: float = TRAINED_KAPPA,
        min_noise_level: float = ScheduleConfig.min_noise_level,
        sqrt_eta_end: float = ScheduleConfig.sqrt_eta_end,
        power: float = ScheduleConfig.power,
    ) -> None:
        if num_timesteps < 2:
            raise ValueError(f"num_timesteps is {num_timesteps}, expected 2 or more.")
        if not (math.isfinite(kappa) and kappa >= 0):
            raise ValueError(f"kappa is {kappa}, expected a finite number of 0 or more.")
        if min_noise_level <= 0 or power <= 0:
            raise ValueError(
                f"min_noise_level is {min_noise_level} and power {power}; expected both above 0."
            )
        sqrt_eta_start = min(min_noise_level / TRAINED_KAPPA, min_noise_level)
        if not sqrt_eta_start < sqrt_eta_end <= 1:
            raise ValueError(
                f"sqrt_eta_end is {sqrt_eta_end}, expected above {sqrt_eta_start} and at most 1."
            )

        self.num_timesteps = num_timesteps
        self.kappa = float(kappa)
        progress = torch.linspace(0, 1, num_timesteps, dtype=torch.float64) ** power
        self.sqrt_eta = sqrt_eta_start * (sqrt_eta_end / sqrt_eta_start) ** progress
        self.eta = self.sqrt_eta**2
        self.alpha = torch.diff(self.eta, prepend=torch.zeros(1, dtype=torch.float64))
        self._eta_from_0: list[float] = [0.0, *self.eta.tolist()]

    def eta_at(self, t: int) -> float:
        """Return eta_t for t = 0...T, with eta_0 = 0.

        Raises:
            ValueError: t is not in 0...T.
        """
        if not 0 <= t <= self.num_timesteps:
            raise ValueError(f"t is {t}, expected 0 to {self.num_timesteps}.")
        return self._eta_from_0[t]

    def marginal_mean(self, x0: Tensor, y0: Tensor, t: int) -> Tensor:
        """Mean of q(x_t | x0, y0): x0 + eta_t e0 with e0 = y0 - x0 (Eq. 2, 21). All
        tensors are [B,C,h,w]."""
        return x0 + self.eta_at(t) * (y0 - x0)

    def marginal_std(self, t: int) -> float:
        """Standard deviation of q(x_t | x0, y0): kappa sqrt(eta_t) (Eq. 2)."""
        return self.kappa * math.sqrt(self.eta_at(t))

    def q_sample(self, x0: Tensor, y0: Tensor, t: int, eps: Tensor) -> Tensor:
        """Draw x_t from q(x_t | x0, y0), with standard normal `eps` (Eq. 2).

        All tensors are [B,C,h,w].
        """
        return self.marginal_mean(x0, y0, t) + self.marginal_std(t) * eps

    def initial_state(self, y0: Tensor, z: Tensor, t: int) -> Tensor:
        """Return the state y0 + kappa sqrt(eta_t) z from which sampling starts at t (Eq. 3).

        All tensors are [B,C,h,w].
        """
        return y0 + self.marginal_std(t) * z

    def scale_input(self, x_t: Tensor, t: int) -> Tensor:
        """Scale x_t to about unit variance for the denoiser: x_t / sqrt(eta_t kappa^2 + 1)."""
        return x_t / math.sqrt(self.marginal_std(t) ** 2 + 1)

    def posterior_mean(self, x_t: Tensor, x0_pred: Tensor, t: int) -> Tensor:
        """Mean mu_theta of the step t -> t-1 (Eq. 5). All tensors are [B,C,h,w]."""
        eta_t, eta_prev = self.eta_at(t), self.eta_at(t - 1)
        return (eta_prev / eta_t) * x_t + ((eta_t - eta_prev) / eta_t) * x0_pred

    def posterior_std(self, t: int) -> float:
        """Standard deviation of the step t -> t-1, sqrt(Sigma_theta) (Eq. 6); 0 at t = 1."""
        eta_t, eta_prev = self.eta_at(t), self.eta_at(t - 1)
        return self.kappa * math.sqrt(eta_prev / eta_t * (eta_t - eta_prev))

    def optimal_noise(self, x0: Tensor, y0: Tensor, x_t: Tensor, x0_pred: Tensor, t: int) -> Tensor:
        """Noise z*_{t-1} for which x_{t-1} is the mean of q(x_{t-1} | x0, y0) (Eq. 9).

        The noise predictor approximates it at step t. All tensors are [B,C,h,w].

        Raises:
            ValueError: step t adds no noise (t = 1, or kappa = 0).
        """
        return self.noise_between(x_t, self.marginal_mean(x0, y0, t - 1), x0_pred, t)

    def noise_between(self, x_t: Tensor, x_prev: Tensor, x0_pred: Tensor, t: int) -> Tensor:
        """Noise of the step from x_t to x_{t-1}: Eq. 5-7, solved for the noise.

        All tensors are [B,C,h,w].

        Raises:
            ValueError: step t adds no noise (t = 1, or kappa = 0).
        """
        std = self.posterior_std(t)
        if std == 0:
            raise ValueError(
                f"Step t = {t} with kappa = {self.kappa} adds no noise; expected t >= 2 and kappa "
                "> 0."
            )
        return (x_prev - self.posterior_mean(x_t, x0_pred, t)) / std
