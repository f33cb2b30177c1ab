"""The sampling chain, with simple functions in place of the networks."""

import pytest
import torch
from torch import Tensor

from lpnsr_impl import Schedule, sample
from tests.golden.fill import noise

SHAPE = torch.Size((2, 3, 6, 4))
X0, Y0, LR = (noise(f"sampler.{name}", SHAPE) for name in ("x0", "y0", "lr"))


class Draws:
    """A noise source that records its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def __call__(self, kind: str, t: int, shape: torch.Size) -> Tensor:
        self.calls.append((kind, t))
        return noise(f"sampler.{kind}.{t}", shape)


def perfect(x_scaled: Tensor, t_index: int, lr: Tensor) -> Tensor:
    return X0


def blurry(x_scaled: Tensor, t_index: int, lr: Tensor) -> Tensor:
    return 0.5 * x_scaled + 0.1 * lr + t_index


def predictor(x_t: Tensor, x0_pred: Tensor, lr: Tensor, t_index: int) -> tuple[Tensor, Tensor]:
    return 0.3 * x_t - x0_pred, torch.full_like(x_t, -0.5)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_a_perfect_denoiser_gives_x0(steps: int) -> None:
    for model, on in ((predictor, {4: True, 3: True, 2: True}), (None, {})):
        x0 = sample(perfect, model, Schedule(), Y0, LR, steps=steps, predictor_on=on, noise=Draws())
        assert torch.equal(x0, X0)


@pytest.mark.parametrize("steps", [2, 3, 4])
def test_with_optimal_noise_each_state_is_eq_21(steps: int) -> None:
    schedule = Schedule()
    states: dict[int, Tensor] = {}

    def optimal(x_t: Tensor, x0_pred: Tensor, lr: Tensor, t_index: int) -> tuple[Tensor, Tensor]:
        return schedule.optimal_noise(X0, Y0, x_t, x0_pred, t_index + 1), torch.zeros_like(x_t)

    def remember(t: int, x_t: Tensor, x0_pred: Tensor) -> None:
        states[t] = x_t

    sample(
        blurry,
        optimal,
        schedule,
        Y0,
        LR,
        steps=steps,
        predictor_mode="mean",
        noise=Draws(),
        callback=remember,
    )
    for t in range(1, steps):
        torch.testing.assert_close(
            states[t], schedule.marginal_mean(X0, Y0, t), atol=1e-5, rtol=1e-5
        )


def test_the_start_is_eq_3_and_the_denoiser_sees_it_scaled() -> None:
    schedule, seen = Schedule(kappa=1.3), []

    def watch(x_scaled: Tensor, t_index: int, lr: Tensor) -> Tensor:
        seen.append((x_scaled, t_index))
        return X0

    sample(watch, None, schedule, Y0, LR, steps=3, predictor_on={}, noise=Draws())
    std = 1.3 * schedule.sqrt_eta[2].item()
    start = Y0 + std * noise("sampler.init.3", SHAPE)
    torch.testing.assert_close(seen[0][0], start / (std**2 + 1) ** 0.5)
    assert [t_index for _, t_index in seen] == [2, 1, 0]


def test_noise_is_asked_for_only_where_it_is_used() -> None:
    on = {4: True, 3: False, 2: True}
    draws = Draws()
    sample(blurry, predictor, Schedule(), Y0, LR, predictor_on=on, noise=draws)
    assert draws.calls == [("init", 4), ("step", 4), ("step", 3), ("step", 2)]
    draws = Draws()
    sample(
        blurry, predictor, Schedule(), Y0, LR, predictor_on=on, predictor_mode="mean", noise=draws
    )
    assert draws.calls == [("init", 4), ("step", 3)]


def test_one_step_never_calls_the_predictor() -> None:
    def forbidden(*_: object) -> tuple[Tensor, Tensor]:
        raise AssertionError("the predictor was called at t = 1")

    draws = Draws()
    sample(blurry, forbidden, Schedule(), Y0, LR, steps=1, noise=draws)
    assert draws.calls == [("init", 1)]


def test_a_predictor_of_mean_0_and_variance_1_is_random_noise() -> None:
    def gaussian(x_t: Tensor, x0_pred: Tensor, lr: Tensor, t_index: int) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(x_t), torch.zeros_like(x_t)

    predicted = sample(blurry, gaussian, Schedule(), Y0, LR, noise=Draws())
    drawn = sample(blurry, None, Schedule(), Y0, LR, predictor_on={}, noise=Draws())
    assert torch.equal(predicted, drawn)


def test_switches_above_the_start_have_no_effect() -> None:
    one = sample(
        blurry,
        predictor,
        Schedule(),
        Y0,
        LR,
        steps=2,
        predictor_on={4: True, 2: True},
        noise=Draws(),
    )
    other = sample(
        blurry, predictor, Schedule(), Y0, LR, steps=2, predictor_on={2: True}, noise=Draws()
    )
    assert torch.equal(one, other)


def test_gradients_reach_the_predictor_through_the_chain() -> None:
    gain = torch.tensor(0.1, requires_grad=True)

    def trainable(x_t: Tensor, x0_pred: Tensor, lr: Tensor, t_index: int) -> tuple[Tensor, Tensor]:
        return gain * x_t, torch.zeros_like(x_t)

    sample(blurry, trainable, Schedule(), Y0, LR, noise=Draws()).square().mean().backward()
    assert gain.grad is not None
    assert gain.grad.abs() > 0


def test_the_callback_can_end_a_run() -> None:
    def stop(t: int, x_t: Tensor, x0_pred: Tensor) -> None:
        if t == 3:
            raise KeyboardInterrupt

    draws = Draws()
    with pytest.raises(KeyboardInterrupt):
        sample(blurry, None, Schedule(), Y0, LR, predictor_on={}, noise=draws, callback=stop)
    assert draws.calls == [("init", 4), ("step", 4)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps is 0, expected 1 to 4"),
        ({"steps": 5}, "steps is 5, expected 1 to 4"),
        ({"predictor_mode": "median"}, "predictor_mode is 'median'"),
        ({"predictor_on": {"4": True}}, r"predictor_on has the keys \['4'\]"),
        ({"lr": LR[:1]}, "lr "),
        ({"lr": LR[..., :2]}, "with equal B, h, w"),
        ({"noise_predictor": None}, r"predictor_on is set for t = \[4, 3, 2\]"),
        (
            {"noise": lambda kind, t, shape: torch.zeros(1)},
            r"has shape \(1,\), expected \(2, 3, 6, 4\)",
        ),
    ],
)
def test_bad_arguments_are_named(change: dict[str, object], message: str) -> None:
    arguments = {
        "denoiser": blurry,
        "noise_predictor": predictor,
        "schedule": Schedule(),
        "y0": Y0,
        "lr": LR,
        "noise": Draws(),
    }
    with pytest.raises(ValueError, match=message):
        sample(**{**arguments, **change})
