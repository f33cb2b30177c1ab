"""The `doctor` command's report: its contents and advice, and its robustness to broken files."""

import hashlib
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact
from spandrel.architectures.SwinIR import SwinIR

from lpnsr_impl.cli import main
from lpnsr_impl.files.doctor import hide_home, report
from lpnsr_impl.files.folders import BUNDLED, BUNDLED_UPSCALE_MODELS
from lpnsr_impl.files.released import (
    AUTOENCODER,
    DENOISER,
    PREDICTOR,
    PREDICTOR_V3,
    PRESETS,
    SINSR_V2,
    SWINIR,
)
from tests.small import autoencoder_weights, denoiser_weights, predictor_weights


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, list[Path]]:
    made = {kind: [tmp_path / "models" / kind] for kind in ("lpnsr", "upscale_models")}
    for (folder,) in made.values():
        folder.mkdir(parents=True)
    return made


def section(text: str, title: str) -> list[str]:
    """Return the lines of the section `title` of a report."""
    (block,) = (b for b in text.strip().split("\n\n") if b.startswith(title + "\n"))
    return [line.strip() for line in block.splitlines()[1:]]


def swinir() -> dict[str, Any]:
    network = SwinIR(embed_dim=12, depths=[1], num_heads=[2], upscale=4, upsampler="nearest+conv")
    return {"params_ema": network.state_dict()}


def test_the_bundled_files_are_named_with_kind_family_and_size() -> None:
    text = report({"lpnsr": [BUNDLED], "upscale_models": [BUNDLED_UPSCALE_MODELS]})
    files = section(text, "Files")
    for name, what in [
        ("lpnsr_lite_autoencoder", "an autoencoder of 2.6 M parameters, family lite-3"),
        ("lpnsr_lite_denoiser", "a denoiser of 8.8 M parameters, family lite-3"),
        ("lpnsr_lite_noise_predictor", "a noise predictor of 5.8 M parameters, family lite-3"),
        ("lpnsr_lite_compact_x4", "an upscale model (RealESRGAN Compact, x4)"),
    ]:
        (line,) = (line for line in files if name in line)
        assert line.endswith(what)
        assert re.search(r"\d+\.\d MB", line)
    assert section(text, "Problems") == ["none found"]
    versions = section(text, "Versions")
    assert re.fullmatch(r"LPNSR \d+\.\d+\.\d+ \(commit \w+\+?\)", versions[0])
    assert f"torch {torch.__version__.split('+')[0]}" in [v.split("+")[0] for v in versions]


def test_missing_files_of_presets_are_named(
    folders: dict[str, list[Path]],
) -> None:
    save = {
        AUTOENCODER: autoencoder_weights(),
        DENOISER: denoiser_weights(),
        PREDICTOR: predictor_weights(),
        SWINIR: swinir(),
    }
    for file in (AUTOENCODER, DENOISER):
        torch.save(save[file], folders[file.folder][0] / file.name)
    lines = section(report(folders), "Presets with the released files")
    assert lines[:3] == [
        f"PreSet-B: lacks {PREDICTOR.name}, {SWINIR.name}",
        f"PreSet-A: lacks {PREDICTOR_V3.name}",
        "ResShift: complete",
    ]
    assert "LPNSR Download Models" in lines[3]
    for file in (PREDICTOR, SWINIR):
        torch.save(save[file], folders[file.folder][0] / file.name)
    lines = section(report(folders), "Presets with the released files")
    assert lines == [
        "PreSet-B: complete",
        f"PreSet-A: complete with {PREDICTOR.name} in place of {PREDICTOR_V3.name}",
        "ResShift: complete",
    ]
    save_file(predictor_weights(), folders["lpnsr"][0] / PREDICTOR_V3.name)
    text = report(folders)
    assert section(text, "Presets with the released files") == [f"{p}: complete" for p in PRESETS]
    assert section(text, "Problems") == ["none found"]


def broken_files(folder: Path) -> list[str]:
    """Write unreadable files of many kinds; return their names."""
    whole = folder.parent / "whole.pth"
    torch.save(denoiser_weights(), whole)
    content = whole.read_bytes()
    files = {
        "empty.pth": b"",
        "zeros.ckpt": bytes(1000),
        "page.pth": b"<!DOCTYPE html>",
        "code.pt": b"cos\nsystem\n(S'exit 1'\ntR.",
        "header.safetensors": b"\xff" * 200,
        "numbers.pth": b"\x80\x02K\x01.",
        **{f"cut_{i}.pth": content[: len(content) * i // 7] for i in range(1, 7)},
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    safe = folder.parent / "whole.safetensors"
    save_file({"x": torch.zeros(100)}, safe)
    (folder / "cut.safetensors").write_bytes(safe.read_bytes()[:-50])
    torch.save({"state_dict": {"a": [1, 2]}}, folder / "lists.pth")
    torch.save(torch.zeros(3), folder / "tensor.pth")
    save_file(denoiser_weights(), folder / "config.safetensors", {"lpnsr.config": "[1]"})
    (folder / "nothing.pth").symlink_to(folder / "gone")
    return [path.name for path in folder.iterdir()]


def test_broken_files_are_problems_and_not_errors(folders: dict[str, list[Path]]) -> None:
    names = broken_files(folders["lpnsr"][0])
    torch.save(autoencoder_weights(), folders["lpnsr"][0] / "good.pth")
    for name in ("empty.pth", "zeros.ckpt", "page.pth", "cut_3.pth"):
        source = folders["lpnsr"][0] / name
        shutil.copyfile(source, folders["upscale_models"][0] / f"lpnsr_{name}")
    text = report(folders, sha256=True)
    problems = section(text, "Problems")
    for name in names:
        assert sum(f"/{name}" in line for line in problems) == 1, name
    assert sum("upscale_models/lpnsr_" in line for line in problems) == 4
    (good,) = (line for line in section(text, "Files") if "good.pth" in line)
    assert "an autoencoder of" in good


def test_files_in_the_wrong_folder_are_named_with_the_right_one(
    folders: dict[str, list[Path]],
) -> None:
    torch.save(swinir(), folders["lpnsr"][0] / SWINIR.name)
    save_file(
        Compact().state_dict(), folders["lpnsr"][0] / "c.safetensors", {"lpnsr.part": "compact"}
    )
    torch.save(denoiser_weights(), folders["upscale_models"][0] / DENOISER.name)
    problems = "\n".join(section(report(folders), "Problems"))
    assert "an upscale model (SwinIR), which belongs in models/upscale_models" in problems
    assert "an upscale model (RealESRGAN Compact), which belongs in" in problems
    assert f"{DENOISER.name}: it is a denoiser, which belongs in models/lpnsr" in problems


def test_an_incomplete_family_is_named(folders: dict[str, list[Path]]) -> None:
    save_file(denoiser_weights(), folders["lpnsr"][0] / "d.safetensors", {"lpnsr.family": "mine"})
    (problem,) = section(report(folders), "Problems")
    assert "The family 'mine' has a denoiser, but lacks an autoencoder" in problem


def test_unused_and_unfinished_files_are_named(folders: dict[str, list[Path]]) -> None:
    second = folders["lpnsr"][0].parent / "second"
    second.mkdir()
    for folder in (folders["lpnsr"][0], second):
        torch.save(autoencoder_weights(), folder / "a.pth")
    folders["lpnsr"].append(second)
    part = folders["lpnsr"][0] / f"{DENOISER.name}.0123abcd.part"
    part.write_bytes(b"begun")
    problems = "\n".join(section(report(folders), "Problems"))
    assert f"{second / 'a.pth'} is not used, because {folders['lpnsr'][0] / 'a.pth'}" in problems
    assert f"{part} is left from a download that did not finish" in problems


def test_students_are_named(folders: dict[str, list[Path]]) -> None:
    torch.save(denoiser_weights(), folders["lpnsr"][0] / SINSR_V2.name)
    (line,) = section(report(folders), "Files")
    assert line.endswith("M parameters, a one-step student (SinSR)")


def test_a_file_that_is_not_the_published_one_is_named(folders: dict[str, list[Path]]) -> None:
    torch.save(autoencoder_weights(), folders["lpnsr"][0] / AUTOENCODER.name)
    assert section(report(folders), "Problems") == ["none found"]
    text = report(folders, sha256=True)
    sha256 = hashlib.sha256((folders["lpnsr"][0] / AUTOENCODER.name).read_bytes()).hexdigest()
    assert f"SHA-256 {sha256}" in text
    (problem,) = section(text, "Problems")
    assert (
        f"is not the published file of this name, whose SHA-256 is {AUTOENCODER.sha256}" in problem
    )


def test_other_models_and_the_home_directory_stay_private(
    folders: dict[str, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = folders["lpnsr"][0].parents[1]
    monkeypatch.setenv("HOME", str(home))
    (folders["upscale_models"][0] / "private.pth").write_bytes(b"x")
    (folders["lpnsr"][0] / "broken.pth").write_bytes(b"x")
    monkeypatch.setenv("HTTPS_PROXY", "http://name:password@proxy")
    text = report(folders)
    assert "private" not in text
    assert "password" not in text
    assert "HTTPS_PROXY is set" in text
    assert str(home) not in text
    assert "~/models/lpnsr/broken.pth" in text
    others = f"/x{home} {home}s {home}-old/x"
    assert hide_home(f"{others} {home}/x {home}") == f"{others} ~/x ~"
    monkeypatch.setenv("HOME", "/")
    assert hide_home("/models/lpnsr") == "/models/lpnsr"


def test_missing_folders_and_lines_of_the_host_are_in_the_report(tmp_path: Path) -> None:
    folders = {"lpnsr": [tmp_path / "none"], "upscale_models": []}
    text = report(folders, host=["ComfyUI 1.2.3"])
    assert section(text, "Folders") == [
        f"lpnsr: {tmp_path / 'none'}, does not exist",
        "upscale_models: none",
    ]
    assert section(text, "ComfyUI") == ["ComfyUI 1.2.3"]


def test_a_report_can_be_cancelled(folders: dict[str, list[Path]]) -> None:
    torch.save(autoencoder_weights(), folders["lpnsr"][0] / "a.pth")

    class CancelledError(Exception):
        pass

    def cancel(*_: Any) -> None:
        raise CancelledError

    with pytest.raises(CancelledError):
        report(folders, progress=cancel)


def test_the_command_line_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.pth").write_bytes(b"x")
    assert main(["doctor", "--folder", str(tmp_path), "--sha256"]) == 0
    text = capsys.readouterr().out
    assert "broken.pth" in text
    assert "lpnsr_lite_denoiser.safetensors" in text
