"""Averaging the weights of two trained versions of a network."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lpnsr_impl.cli import main
from lpnsr_impl.config import RESSHIFT_15
from lpnsr_impl.files.blend import blend
from lpnsr_impl.files.checkpoints import load_model
from tests.small import autoencoder_weights, denoiser_weights, predictor_weights


def save(path: Path, steps: int, offset: float) -> None:
    weights = {key: tensor + offset for key, tensor in autoencoder_weights().items()}
    header = {"lpnsr.family": "f", "lpnsr.part": "autoencoder",
              "lpnsr.provenance": json.dumps({"steps": steps})}  # fmt: skip
    save_file({key: tensor.half() for key, tensor in weights.items()}, path, header)


def test_weights_are_averaged_and_the_header_names_both(tmp_path: Path) -> None:
    first, second, target = (tmp_path / f"{name}.safetensors" for name in ("a", "b", "c"))
    save(first, 1, 0.0)
    save(second, 2, 1.0)
    header = blend(first, second, 0.75, target)
    before, after = load_file(first), load_file(target)
    for key, tensor in before.items():
        torch.testing.assert_close(after[key], (tensor.float() + 0.75).half(), atol=2e-3, rtol=2e-3)
    with safe_open(target, "pt") as file:
        assert file.metadata() == header
    provenance = json.loads(header["lpnsr.provenance"])
    assert provenance == {"steps": 2, "share": 0.75, "blended_with": {"steps": 1}}
    assert load_model(target).family == "f"


@pytest.mark.parametrize(("share", "of"), [("0", 0), ("1", 1)])
def test_shares_of_0_and_1_give_one_of_both(tmp_path: Path, share: str, of: int) -> None:
    files = [tmp_path / f"{name}.safetensors" for name in ("a", "b", "c")]
    for i, path in enumerate(files[:2]):
        save(path, i, float(i))
    command = ["blend", *map(str, files), "--share", share]
    assert main(command) == 0
    given, blended = load_file(files[of]), load_file(files[2])
    assert all(torch.equal(blended[key], tensor) for key, tensor in given.items())


def test_networks_that_can_not_be_blended_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [tmp_path / f"{name}.safetensors" for name in ("denoiser", "predictor", "out")]
    for path, weights in zip(paths, (denoiser_weights(), predictor_weights()), strict=False):
        save_file(weights, path)
    command = ["blend", *map(str, paths)]
    assert main(command) == 1
    assert "denoiser.safetensors is denoiser of" in caplog.text
    assert "expected two trained versions of the same network" in caplog.text
    assert main([*command, "--share", "1.5"]) == 1
    assert "share is 1.5, expected 0 (only denoiser.safetensors) to 1" in caplog.text
    schedule = {"lpnsr.schedule": json.dumps(asdict(RESSHIFT_15))}
    save_file(denoiser_weights(), paths[1], schedule)
    assert main(command) == 1
    assert '"num_timesteps": 15' in caplog.text
    assert not paths[2].exists()
    paths[2].write_bytes(b"mine")
    assert main(command) == 1
    assert "exists already" in caplog.text
    assert paths[2].read_bytes() == b"mine"
