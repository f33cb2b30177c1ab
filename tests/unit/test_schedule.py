"""Properties of the noise schedule, and the distributions of Eq. 1-9 of the LPNSR paper."""

import math

import pytest
import torch

from lpnsr_impl import Schedule
from lpnsr_impl.config import RESSHIFT_15
from tests.golden.fill import noise

SHAPE = (2, 3, 5, 7)


@pytest.fixture(params=[4, 2, 15])
def schedule(request: pytest.FixtureRequest) -> Schedule:
    return Schedule(num_timesteps=request.param)


def test_eta_increases_from_the_noise_floor_to_its_end(schedule: Schedule) -> None:
    assert schedule.sqrt_eta[0].item() == pytest.approx(0.1)
    assert schedule.sqrt_eta[-1].item() == pytest.approx(0.99)
    assert (torch.diff(schedule.eta) > 0).all()
    assert schedule.alpha.sum().item() == pytest.approx(schedule.eta[-1].item())


def test_kappa_scales_the_noise_and_leaves_the_table() -> None:
    usual, calm = Schedule(), Schedule(kappa=0.5)
    assert torch.equal(usual.eta, calm.eta)
    for t in range(2, 5):
        assert calm.posterior_std(t) == pytest.approx(usual.posterior_std(t) / 4)
        assert calm.marginal_std(t) == pytest.approx(usual.marginal_std(t) / 4)


def test_posterior_coefficients_sum_to_one(schedule: Schedule) -> None:
    one = torch.ones(1, dtype=torch.float64)
    for t in range(1, schedule.num_timesteps + 1):
        assert schedule.posterior_mean(one, one, t).item() == pytest.approx(1)


def test_posterior_of_q_has_the_marginal_of_the_step_before(schedule: Schedule) -> None:
    """Drawing x_t from q(x_t | x0, y0), then x_{t-1} from the posterior, gives the distribution
    q(x_{t-1} | x0, y0) (Chapman-Kolmogorov equation)."""
    x0, y0 = (noise(f"schedule.{name}", SHAPE).double() for name in ("x0", "y0"))
    for t in range(2, schedule.num_timesteps + 1):
        mean = schedule.posterior_mean(schedule.marginal_mean(x0, y0, t), x0, t)
        torch.testing.assert_close(mean, schedule.marginal_mean(x0, y0, t - 1))
        of_x_t = schedule.posterior_mean(torch.ones(1), torch.zeros(1), t).item()
        variance = (of_x_t * schedule.marginal_std(t)) ** 2 + schedule.posterior_std(t) ** 2
        assert variance == pytest.approx(schedule.marginal_std(t - 1) ** 2)


def test_scaled_input_has_unit_variance_for_unit_data(schedule: Schedule) -> None:
    for t in range(1, schedule.num_timesteps + 1):
        std = schedule.scale_input(torch.tensor(1.0), t).item()
        assert std**2 * (1 + schedule.marginal_std(t) ** 2) == pytest.approx(1)


def test_optimal_noise_puts_the_state_on_eq_21(schedule: Schedule) -> None:
    x0, y0, x_t, x0_pred = (
        noise(f"schedule.{name}", SHAPE).double() for name in ("x0", "y0", "x_t", "x0_pred")
    )
    for t in range(2, schedule.num_timesteps + 1):
        n = schedule.optimal_noise(x0, y0, x_t, x0_pred, t)
        x_prev = schedule.posterior_mean(x_t, x0_pred, t) + schedule.posterior_std(t) * n
        eta = schedule.eta[t - 2]
        torch.testing.assert_close(x_prev, (1 - eta) * x0 + eta * y0)


def test_no_noise_is_optimal_where_none_is_added() -> None:
    x = torch.zeros(SHAPE)
    with pytest.raises(ValueError, match="t = 1"):
        Schedule().optimal_noise(x, x, x, x, 1)
    with pytest.raises(ValueError, match=r"kappa = 0\.0"):
        Schedule(kappa=0).optimal_noise(x, x, x, x, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_timesteps": 1}, "num_timesteps is 1"),
        ({"kappa": -1.0}, "kappa is -1.0"),
        ({"kappa": float("nan")}, "kappa is nan"),
        ({"min_noise_level": 0.0}, "min_noise_level is 0.0"),
        ({"power": 0.0}, "power 0.0"),
        ({"sqrt_eta_end": 1.5}, "sqrt_eta_end is 1.5"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schedule(**arguments)


@pytest.mark.parametrize("t", [-1, 5])
def test_steps_outside_the_schedule_are_refused(t: int) -> None:
    with pytest.raises(ValueError, match=f"t is {t}, expected 0 to 4"):
        Schedule().eta_at(t)


def test_fifteen_steps_have_the_published_table() -> None:
    """sqrt(eta_t) follows ResShift's formula for its config `realsrx4_s15`: exponential in
    (t - 1)^0.3, starting at 0.04 / kappa."""
    schedule = Schedule(**vars(RESSHIFT_15))
    assert schedule.sqrt_eta[0].item() == pytest.approx(0.02)
    assert schedule.sqrt_eta[-1].item() == pytest.approx(0.99)
    assert (torch.diff(schedule.sqrt_eta) > 0).all()
    increaser = math.exp(math.log(0.99 / 0.02) / 14)
    for t in range(1, 16):
        published = 0.02 * increaser ** (14 * ((t - 1) / 14) ** 0.3)
        assert schedule.sqrt_eta[t - 1].item() == pytest.approx(published)
