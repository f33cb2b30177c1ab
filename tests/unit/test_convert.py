"""Converting checkpoints to safetensors files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lpnsr_impl import (
    UnsupportedCheckpointError,
    load_autoencoder,
    load_denoiser,
    load_noise_predictor,
)
from lpnsr_impl.cli import main
from lpnsr_impl.config import AutoencoderConfig
from lpnsr_impl.files.checkpoints import load_model
from lpnsr_impl.files.convert import convert
from lpnsr_impl.models import Autoencoder
from tests.limits import limit_file_size
from tests.small import autoencoder_weights, denoiser_weights, predictor_weights, unet_config

PARTS = {
    "autoencoder": (load_autoencoder, autoencoder_weights),
    "denoiser": (load_denoiser, denoiser_weights),
    "noise_predictor": (load_noise_predictor, predictor_weights),
}


def header_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("part", PARTS)
def test_a_converted_file_loads_to_the_same_network(
    tmp_path: Path, part: str, dtype: torch.dtype
) -> None:
    load, make = PARTS[part]
    weights = {key: tensor.to(dtype) for key, tensor in make().items()}
    stored: dict[str, Any] = {f"module.{key}": tensor for key, tensor in weights.items()}
    source, target = tmp_path / "in.pth", tmp_path / "below" / "out.safetensors"
    torch.save({"state_dict": stored, "epoch": 3}, source)
    header = convert(source, target)
    before, after = load(source), load(target)
    assert after.config == before.config
    assert after.state_dict().keys() == before.state_dict().keys()
    for key, tensor in before.state_dict().items():
        assert torch.equal(after.state_dict()[key], tensor)
    assert header == header_of(target)
    assert header["lpnsr.part"] == part
    assert "lpnsr.family" not in header  # the network does not have the sizes of a known family
    assert {tensor.dtype for tensor in load_file(target).values()} == {dtype}
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_information_of_dropped_buffers_is_in_the_header(tmp_path: Path) -> None:
    weights = denoiser_weights(unet_config(trained_resolution=32))
    weights["input_blocks.1.1.blocks.1.attn_mask"] = torch.zeros(16, 64, 64)
    torch.save(weights, tmp_path / "in.pth")
    assert load_denoiser(tmp_path / "in.pth").config.trained_resolution == 32
    header = convert(tmp_path / "in.pth", tmp_path / "out.safetensors")
    assert json.loads(header["lpnsr.config"])["trained_resolution"] == 32
    assert load_denoiser(tmp_path / "out.safetensors").config.trained_resolution == 32


def test_files_of_the_released_sizes_are_of_that_family(tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = Autoencoder(AutoencoderConfig()).state_dict()
    weights = {k: torch.zeros(t.shape, dtype=torch.float16) for k, t in shapes.items()}
    torch.save(weights, tmp_path / "in.pth")
    header = convert(tmp_path / "in.pth", tmp_path / "out.safetensors")
    assert header["lpnsr.family"] == "released"
    assert load_model(tmp_path / "out.safetensors").family == "released"


def test_the_header_of_a_safetensors_file_is_kept(tmp_path: Path) -> None:
    header = {"lpnsr.family": "mine", "lpnsr.provenance": "a training"}
    save_file(denoiser_weights(), tmp_path / "in.safetensors", header)
    converted = convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    assert converted.items() >= header.items()
    assert load_model(tmp_path / "out.safetensors").family == "mine"


def test_tensors_that_share_memory_are_converted(tmp_path: Path) -> None:
    weights = denoiser_weights()
    flat = torch.cat([tensor.flatten() for tensor in weights.values()])
    pieces = flat.split([tensor.numel() for tensor in weights.values()])
    views = {k: piece.view(t.shape) for (k, t), piece in zip(weights.items(), pieces, strict=True)}
    torch.save(views, tmp_path / "in.pth")
    convert(tmp_path / "in.pth", tmp_path / "out.safetensors")
    for key, tensor in load_file(tmp_path / "out.safetensors").items():
        assert torch.equal(tensor, weights[key])


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    torch.save(denoiser_weights(), tmp_path / "in.pth")
    target = tmp_path / "out.safetensors"
    target.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"out\.safetensors exists already"):
        convert(tmp_path / "in.pth", target)
    assert target.read_bytes() == b"mine"


def test_a_full_disk_leaves_no_file(tmp_path: Path) -> None:
    torch.save(denoiser_weights(), tmp_path / "in.pth")
    with limit_file_size(1_000_000), pytest.raises(OSError, match="File too large"):
        convert(tmp_path / "in.pth", tmp_path / "out.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["in.pth"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"in\.pth is empty"),
        (b"<!DOCTYPE html>", r"in\.pth is a text page"),
        (b"nonsense", r"in\.pth is not a plain file of tensors"),
        (
            {"lora_unet_x.lora_up.weight": torch.zeros(1)},
            "looks like a LoRA, expected an autoencoder, a denoiser or a noise predictor",
        ),
        ({**denoiser_weights(), "surplus.weight": torch.zeros(1)}, "is not a complete Denoiser"),
    ],
)
def test_wrong_files_get_the_same_errors_as_in_loading(
    tmp_path: Path, content: Any, message: str
) -> None:
    source = tmp_path / "in.pth"
    if isinstance(content, bytes):
        source.write_bytes(content)
    else:
        torch.save(content, source)
    with pytest.raises(UnsupportedCheckpointError, match=message):
        convert(source, tmp_path / "out.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["in.pth"]


def test_the_command_line_converts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    torch.save(predictor_weights(), tmp_path / "in.pth")
    command = ["convert", str(tmp_path / "in.pth"), str(tmp_path / "out.safetensors")]
    assert main(command) == 0
    assert "noise_predictor of no known family" in caplog.text
    assert main(command) == 1
    assert "exists already" in caplog.text
    assert main([*command[:2], str(tmp_path / "out.pth")]) == 1
    assert "has the suffix '.pth', expected .safetensors" in caplog.text
