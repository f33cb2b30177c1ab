"""Recording of the noise in a sampling run, and figures of it."""

import sys

import pytest
import torch
from torch import Tensor

from lpnsr_impl.method.noise import seeded_noise
from lpnsr_impl.method.noise_figures import ChainRecorder, draw_figure, noise_picture, render
from lpnsr_impl.method.sampler import sample
from lpnsr_impl.method.schedule import Schedule
from tests.golden.fill import noise

Y0 = noise("figures.y0", (1, 3, 8, 8))
LR = noise("figures.lr", (1, 3, 8, 8)).clamp(0, 1)


def denoiser(x_scaled: Tensor, t_index: int, lr: Tensor) -> Tensor:
    return 0.5 * x_scaled + 0.1 * t_index


def recorded(seed: int, recorder: ChainRecorder | None = None, steps: int = 4) -> ChainRecorder:
    schedule = Schedule()
    recorder = recorder or ChainRecorder(schedule)
    source = seeded_noise(seed)
    sample(
        denoiser,
        None,
        schedule,
        Y0,
        LR,
        steps=steps,
        predictor_on={},
        noise=source,
        callback=recorder,
    )
    return recorder


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_recorder_finds_the_noise_that_was_added(steps: int) -> None:
    recorder = recorded(3, steps=steps)
    assert list(recorder.x0_pred) == list(range(steps, 0, -1))
    assert list(recorder.noise) == list(range(steps, 1, -1))
    for t, n in recorder.noise.items():
        torch.testing.assert_close(n, seeded_noise(3)("step", t, Y0.shape), atol=1e-5, rtol=0)


def test_a_run_that_starts_again_replaces_the_first() -> None:
    recorder = ChainRecorder(Schedule())
    recorder(4, Y0, Y0)
    recorder(3, Y0, Y0)
    again, once = recorded(5, recorder), recorded(5)
    for kept, expected in ((again.noise, once.noise), (again.x0_pred, once.x0_pred)):
        assert kept.keys() == expected.keys()
        assert all(torch.equal(kept[t], expected[t]) for t in kept)


def test_noise_pictures_are_grey_at_zero() -> None:
    n = torch.tensor([-9.0, -3, 0, 3, 9]).expand(1, 4, 2, 5)
    assert noise_picture(n).shape == (1, 3, 2, 5)
    assert noise_picture(n)[0, 0, 0].tolist() == [0, 0, 0.5, 1, 1]


def test_a_figure_says_mean_and_deviation_beside_the_normal_distribution() -> None:
    n = noise("figures.n", (1, 3, 8, 8))
    figure = draw_figure(LR, {4: n, 3: 0.5 * n + 1})
    legends = [
        text.get_text()
        for axis in figure.axes
        if (legend := axis.get_legend())
        for text in legend.get_texts()
    ]
    assert f"mean {n.mean() / 2 + 1:+.3f}\nstd {n.std(correction=0) / 2:.3f}" in legends
    assert legends.count("N(0, 1)") == 2
    picture = render(figure)
    assert picture.shape[:2] == (1, 3)
    assert 0 <= picture.min() < 0.1
    assert picture.max() == 1


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty sys.path simulates a Python without matplotlib."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ImportError, match="pip install matplotlib"):
        draw_figure(LR, {4: LR})
