"""Colours of transparent pixels do not bleed into visible pixels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lpnsr_impl.cli import main
from tests.sprite import fringe, yellow_disc


@pytest.mark.parametrize("ring", [0.0, 2 / 255])
def test_the_command_line_gives_sprites_no_dark_fringe(tmp_path: Path, ring: float) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    values = (255 * yellow_disc(ring)).round().byte().numpy()
    Image.fromarray(values, "RGBA").save(folder / "disc.png")
    assert main(["upscale", str(folder), str(tmp_path / "out"), "--steps", "2"]) == 0
    with Image.open(tmp_path / "out" / "disc.png") as file:
        result = torch.from_numpy(np.asarray(file, dtype=np.float32) / 255)
    assert fringe(result) < 0.05
