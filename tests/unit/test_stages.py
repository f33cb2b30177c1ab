"""Several training runs with a single `train` command."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from safetensors.torch import save_file

from lpnsr_impl.cli import main
from lpnsr_impl.jobs.training.stages import train_stages
from tests.small import autoencoder_weights, denoiser_weights, save_crops, unet_config
from tests.unit.test_training import UNET_HEADER


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> Iterator[None]:
    """Reset Accelerate after each test, since it keeps the precision of the first training in a
    process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_each_training_takes_the_networks_of_those_before(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    save_crops(pictures, 4, (12, 5))
    autoencoder, denoiser = tmp_path / "a.safetensors", tmp_path / "d.safetensors"
    save_file(autoencoder_weights(), autoencoder)
    weights = denoiser_weights(unet_config(trained_resolution=16))
    save_file(weights, denoiser, UNET_HEADER | {"lpnsr.part": "denoiser"})
    shared = "crop = 64\nvalidation_crop = 64\nvalidation_pictures = 1\nsteps = 2\nbatch = 2\n"
    for name, text in {
        "first": f'task = "decoder"\n{shared}[networks]\ninit = "{autoencoder}"\n'
        "[loss]\nl1 = 1.0\n",
        "second": f'task = "denoiser"\n{shared}[networks]\nautoencoder = "{autoencoder}"\n'
        f'init = "{denoiser}"\n[loss]\nlatent = 1.0\n',
    }.items():
        (tmp_path / f"{name}.toml").write_text(text)
    names = [str(tmp_path / f"{name}.toml") for name in ("first", "second")]
    command = ["train", *names, "--data", str(pictures), "--out", str(tmp_path / "out"), "--cpu"]
    assert main([*command, "--set", "seed=3"]) == 0
    trained = tmp_path / "out" / "first" / "best.safetensors"
    config = (tmp_path / "out" / "second" / "config.json").read_text()
    assert str(trained) in config
    assert '"seed": 3' in config
    state = tmp_path / "out" / "second" / "state.pt"
    before = state.stat().st_mtime_ns
    train_stages(names, ["seed=3"], pictures, tmp_path / "out", cpu=True)  # both trainings are done
    assert state.stat().st_mtime_ns == before
