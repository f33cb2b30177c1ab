"""Standard deviation of results over seeds, and its heat map."""

import matplotlib
import pytest
import torch

from lpnsr_impl.pictures.invention import RunningDeviation, heat_map
from tests.golden.fill import noise


def test_running_deviation_agrees_with_all_at_once() -> None:
    pictures = 0.5 + 0.01 * noise("invention", (5, 1, 6, 7, 3))
    running = RunningDeviation()
    for picture in pictures:
        running.add(picture)
    torch.testing.assert_close(running.mean, pictures.mean(dim=0))
    torch.testing.assert_close(running.deviation(), pictures.std(dim=0), atol=1e-6, rtol=1e-4)


def test_what_is_added_is_not_changed() -> None:
    picture = noise("invention", (1, 4, 4, 3))
    before = picture.clone()
    running = RunningDeviation()
    running.add(picture)
    running.add(picture + 1)
    assert torch.equal(picture, before)


def test_a_deviation_of_one_is_refused() -> None:
    running = RunningDeviation()
    running.add(torch.zeros(2))
    with pytest.raises(ValueError, match="needs 2 tensors or more, got 1"):
        running.deviation()


def test_heat_map_is_matplotlibs_inferno() -> None:
    x = torch.linspace(-0.1, 1.1, 241)
    expected = torch.from_numpy(matplotlib.colormaps["inferno"](x.clamp(0, 1).numpy())[:, :3])
    assert heat_map(x).shape == (241, 3)
    torch.testing.assert_close(heat_map(x), expected.float(), atol=0.04, rtol=0)
