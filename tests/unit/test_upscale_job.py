"""The upscale command: results of a folder, repeated runs, and errors."""

import errno
import logging
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file

from lpnsr_impl.cli import main, parser
from lpnsr_impl.engine.engine import Engine
from lpnsr_impl.engine.memory import Memory
from lpnsr_impl.jobs.upscale.command import make_settings
from lpnsr_impl.jobs.upscale.formats import RECORDS
from lpnsr_impl.jobs.upscale.job import DONE, FAILED, MADE, Outcome, Worker, format_duration
from lpnsr_impl.jobs.upscale.networks import Networks, Settings
from lpnsr_impl.jobs.upscale.picture import read_picture_data
from lpnsr_impl.jobs.upscale.plan import make_plan
from lpnsr_impl.jobs.upscale.results import Job
from tests.eventually import PATIENCE, eventually
from tests.limits import enforce_permissions
from tests.small import denoiser_weights

EXAMPLE = Path(__file__).parents[2] / "workflows" / "lpnsr_example.png"
QUICK = ["--steps", "1", "--preset", "A"]


def example(w: int = 16, h: int = 12, at: int = 40) -> Image.Image:
    with Image.open(EXAMPLE) as file:
        return file.convert("RGB").crop((at, at, at + w, at + h))


def settings(*options: str) -> Settings:
    return make_settings(parser().parse_args(["upscale", "x", "y", "--device", "cpu", *options]))


@pytest.fixture(scope="module")
def networks() -> Networks:
    return Networks(settings(*QUICK))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two pictures, and a third one in a subfolder."""
    source = tmp_path / "in"
    (source / "sub").mkdir(parents=True)
    example().save(source / "a.png")
    example(7, 5).save(source / "b.jpg")
    example(at=50).save(source / "sub" / "c.png")
    return source


def run_job(
    networks: Networks, source: Path | str, out: Path | str, *, settings: str = "s",
    format_name: str = "same", overwrite: bool = False,
) -> dict[str, Outcome]:  # fmt: skip
    """Upscale a picture or a folder. Return the outcome of each picture, by name."""
    plan = make_plan(str(source), str(out), format_name)
    worker = Worker(Job(plan.source, plan.out, settings, overwrite), networks)
    return {item.name: worker.upscale(item) for item in plan.items}


def statuses(outcomes: dict[str, Outcome]) -> dict[str, str]:
    return {name: outcome.status for name, outcome in outcomes.items()}


def files(folder: Path) -> set[str]:
    """Return the paths of all files in a folder, without the records of the upscale command."""
    found = (p.relative_to(folder) for p in folder.rglob("*") if not p.is_dir())
    return {p.as_posix() for p in found if p.parts[0] != RECORDS}


# Results of a folder or a picture


def test_a_folder_is_upscaled_with_its_structure(
    networks: Networks, folder: Path, tmp_path: Path
) -> None:
    outcomes = run_job(networks, folder, tmp_path / "out")
    assert set(statuses(outcomes).values()) == {MADE}
    assert files(tmp_path / "out") == {"a.png", "b.jpg", "sub/c.png"}
    for name, size in (("a.png", (64, 48)), ("b.jpg", (28, 20))):
        with Image.open(tmp_path / "out" / name) as file:
            assert file.size == size
            small = np.asarray(file.resize((size[0] // 4, size[1] // 4)), dtype=float)
        with Image.open(folder / name) as file:
            assert abs(small - np.asarray(file, dtype=float)).mean() < 12


def upscale_one(options: list[str], source: Path, out: Path) -> Outcome:
    """Upscale a single picture with additional command-line options, and return its outcome."""
    return run_job(Networks(settings(*QUICK, *options)), source, out)[source.name]


def test_results_have_the_size_wanted(tmp_path: Path) -> None:
    """The result has the size of --longest-side. Alpha is resized, too, and the resolution (DPI) in
    the metadata is kept."""
    picture = example(20, 12)
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    picture.save(tmp_path / "x.png", dpi=(72, 72))
    outcome = upscale_one(["--longest-side", "99"], tmp_path / "x.png", tmp_path / "out")
    passes = "x4 to 80x48, down to 25x15, x4 to 100x60, down to 99x59"
    assert outcome.text == f"20x12 to 99x59 in 2 passes: {passes}"
    with Image.open(tmp_path / "out" / "x.png") as file:
        assert file.size == (99, 59)
        assert file.mode == "RGBA"
        assert file.info["dpi"] == pytest.approx((72, 72), abs=0.1)
        small = np.asarray(file.resize((20, 12), Image.Resampling.BOX), dtype=float)
    assert abs(small - np.asarray(picture, dtype=float))[..., 3].mean() < 3
    assert abs(small - np.asarray(picture, dtype=float))[4:, :, :3].mean() < 20


def test_a_size_that_cannot_be_reached_is_the_pictures_error(tmp_path: Path) -> None:
    example(20, 12).save(tmp_path / "x.png")
    for side, message in (("19", "expected 20 to 320"), ("321", "expected 20 to 320")):
        outcome = upscale_one(["--longest-side", side], tmp_path / "x.png", tmp_path / "out")
        assert outcome.status == FAILED
        assert message in outcome.text
    assert files(tmp_path / "out") == set()


def test_a_result_that_does_not_fit_into_memory_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example(100, 100).save(tmp_path / "x.png")
    monkeypatch.setattr(Memory, "free_for_results", lambda self: 100 << 20)
    monkeypatch.setattr(Engine, "encode", None)
    outcome = upscale_one(["--factor", "16"], tmp_path / "x.png", tmp_path / "out")
    assert outcome.status == FAILED
    assert "1600x1600 need 0.2 GB of memory for pixels alone, and 0.1 GB are free" in outcome.text


def test_grey_stays_grey_and_sixteen_bits_stay(networks: Networks, tmp_path: Path) -> None:
    ramp = np.linspace(20000, 21000, 16 * 12).reshape(12, 16).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "x.png")
    run_job(networks, tmp_path / "x.png", tmp_path / "out")
    picture = read_picture_data((tmp_path / "out" / "x.png").read_bytes())
    assert (picture.grey, picture.bits) == (True, 16)
    assert len(picture.rgb.unique()) > 256


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_close(networks: Networks, precision: str) -> None:
    half = Networks(settings(*QUICK, "--precision", precision))
    picture = read_picture_data(EXAMPLE.read_bytes())
    picture = replace(picture, rgb=picture.rgb[:, :, 40:56, 40:56], alpha=None)
    difference = (half(picture).rgb - networks(picture).rgb).abs()
    assert 0 < difference.mean() < 0.02


# Formats and names


def test_what_the_format_cannot_hold_becomes_a_png_beside(
    networks: Networks, tmp_path: Path
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    picture = example().convert("L")
    picture.putalpha(128)
    picture.save(source / "x.bmp", "PNG")
    Image.fromarray(np.full((4, 4), 30000, np.uint16)).save(source / "y.jpg", "PNG")
    outcomes = run_job(networks, source, out)
    assert files(out) == {"x.bmp.png", "y.jpg.png"}
    assert "as x.bmp.png" in outcomes["x.bmp"].text
    assert set(statuses(run_job(networks, source, out)).values()) == {DONE}


def test_a_format_by_option_that_cannot_hold_the_result_is_an_error(
    networks: Networks, tmp_path: Path
) -> None:
    picture = example()
    picture.putalpha(100)
    picture.save(tmp_path / "x.png")
    outcome = run_job(networks, tmp_path / "x.png", tmp_path / "x.jpg")["x.png"]
    assert outcome.status == FAILED
    assert "jpg can't hold transparency" in outcome.text
    assert not (tmp_path / "x.jpg").exists()
    Image.fromarray(np.full((4, 4), 30000, np.uint16)).save(tmp_path / "y.png")
    outcome = run_job(networks, tmp_path / "y.png", tmp_path / "y.jpg")["y.png"]
    assert outcome.status == MADE
    assert outcome.text.endswith("; as y.jpg; 16 bits become 8")


def test_names_and_things_that_folders_have(networks: Networks, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    (source / "x.png").mkdir(parents=True)
    tiny = example(4, 4)
    tiny.save(source / "x.png" / "日本 ü'$ .png")
    with open(os.fsencode(source) + b"/caf\xe9.png", "wb") as file:
        tiny.save(file, "PNG")
    (source / "link.png").symlink_to(source / "x.png" / "日本 ü'$ .png")
    (source / "gone.png").symlink_to("nowhere.png")
    (source / "loop.png").symlink_to("loop.png")
    os.mkfifo(source / "pipe.png")
    (source / "empty.png").touch()
    outcomes = run_job(networks, source, out)
    made = {"x.png/日本 ü'$ .png", os.fsdecode(b"caf\xe9.png"), "link.png"}
    failed = {"gone.png", "loop.png", "pipe.png", "empty.png"}
    assert statuses(outcomes) == dict.fromkeys(made, MADE) | dict.fromkeys(failed, FAILED)
    assert files(out) == made
    assert "broken link" in outcomes["gone.png"].text
    assert "not a regular file" in outcomes["pipe.png"].text


def test_what_may_not_be_read_is_reported(networks: Networks, folder: Path, tmp_path: Path) -> None:
    (folder / "a.png").chmod(0)
    (folder / "sub").chmod(0)
    with enforce_permissions():
        outcomes = run_job(networks, folder, tmp_path / "out")
        problems = make_plan(str(folder), str(tmp_path / "out"), "same").problems
    (folder / "sub").chmod(0o755)
    assert statuses(outcomes) == {"a.png": FAILED, "b.jpg": MADE}
    assert "Permission denied" in outcomes["a.png"].text
    assert set(problems) == {"sub"}


# Repeated runs


def test_only_changed_inputs_are_done_again(networks: Networks, folder: Path) -> None:
    out = folder / "out"  # results inside the input folder are not inputs
    run_job(networks, folder, out)
    before = (out / "sub" / "c.png").stat().st_mtime_ns
    old = (folder / "a.png").stat().st_mtime_ns - 10**12
    os.utime(folder / "a.png", ns=(old, old))  # as if replaced by an older file of the same size
    example(9, 9).save(folder / "b.jpg")
    expected = {"a.png": MADE, "b.jpg": MADE, "sub/c.png": DONE}
    assert statuses(run_job(networks, folder, out)) == expected
    with Image.open(out / "b.jpg") as file:
        assert file.size == (36, 36)
    assert (out / "sub" / "c.png").stat().st_mtime_ns == before
    outcomes = run_job(networks, folder, out, settings="others")
    assert set(statuses(outcomes).values()) == {MADE}


def test_a_file_that_is_no_result_is_not_replaced(
    networks: Networks, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.png").write_text("precious")
    outcome = run_job(networks, folder, out)["a.png"]
    assert outcome.status == FAILED
    assert "--overwrite" in outcome.text
    assert (out / "a.png").read_text() == "precious"
    assert set(statuses(run_job(networks, folder, out, overwrite=True)).values()) == {MADE}


def test_results_that_were_changed_and_damaged_records_do_not_count(
    networks: Networks, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run_job(networks, folder, out)
    (out / "a.png").write_bytes((out / "a.png").read_bytes()[:100])
    outcome = run_job(networks, folder, out)["a.png"]
    assert outcome.status == FAILED
    assert "was changed since it was made: it has 100 bytes" in outcome.text
    (out / "a.png").unlink()
    assert run_job(networks, folder, out)["a.png"].status == MADE
    for record in (out / RECORDS).iterdir():
        record.write_text("{")
    assert run_job(networks, folder, out)["a.png"].status == FAILED
    assert run_job(networks, folder, out, overwrite=True)["a.png"].status == MADE


@pytest.mark.parametrize(
    ("options", "same"),
    [
        (["--tile", "64"], True),
        (["--device", "cuda"], True),
        (["--steps", "2"], False),
        (["--seed", "1"], False),
        (["--precision", "bf16"], False),
        (["--color-fix", "none"], False),
        (["--predictor-off", "3"], False),
        (["--predictor-mode", "mean"], False),
        (["--preset", "A"], False),
        (["--factor", "4"], True),
        (["--factor", "2"], False),
        (["--longest-side", "1000"], False),
    ],
)
def test_the_settings_that_count(options: list[str], same: bool) -> None:
    assert (settings().fingerprint() == settings(*options).fingerprint()) == same


def test_another_file_of_the_same_name_counts(tmp_path: Path) -> None:
    prints: list[str] = []
    for salt in (1.0, 2.0):
        weights = {k: v * salt for k, v in denoiser_weights().items()}
        save_file(weights, tmp_path / "d.safetensors")
        prints.append(settings("--denoiser", str(tmp_path / "d.safetensors")).fingerprint())
    assert prints[0] != prints[1]


# Presets


def test_the_bundled_start_is_for_its_own_family(tmp_path: Path) -> None:
    assert settings().method.name == "PreSet-B"
    assert settings().upscale_model == "lpnsr_lite_compact_x4.safetensors"
    assert settings("--preset", "A").upscale_model is None
    assert settings("--preset", "ResShift").method.start == "bicubic"
    save_file(denoiser_weights(), tmp_path / "d.safetensors")
    other = ["--denoiser", str(tmp_path / "d.safetensors")]
    assert settings(*other).method.name == "PreSet-A"
    with pytest.raises(ValueError, match="--upscale-model"):
        settings(*other, "--preset", "B")
    with pytest.raises(ValueError, match="--noise-predictor is none"):
        settings("--noise-predictor", "none")


def test_steps_and_switches_of_a_student_do_not_count(tmp_path: Path) -> None:
    torch.save(denoiser_weights(), tmp_path / "SinSR_v1.pth")
    student = ["--denoiser", str(tmp_path / "SinSR_v1.pth"), "--noise-predictor", "none"]
    method = settings(*student).method
    assert (method.name, method.start, method.steps) == ("SinSR", "bicubic", 1)
    assert not any(method.predictor_on.values())
    once = settings(*student).fingerprint()
    assert settings(*student, "--steps", "1", "--predictor-off", "3").fingerprint() == once
    assert settings(*student, "--seed", "1").fingerprint() != once


# Options


def test_sizes_that_no_picture_can_have_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    assert main(["upscale", "x", "y", "--factor", "17"]) == 1
    assert "factor is 17, expected 1 to 16" in caplog.text
    with pytest.raises(SystemExit):
        main(["upscale", "x", "y", "--factor", "2", "--longest-side", "100"])


# Command line


def command(source: Path | str, out: Path | str, *options: str) -> int:
    return main(["upscale", str(source), str(out), "--device", "cpu", *QUICK, *options])


def test_bad_pictures_are_listed_at_the_end_and_the_exit_code_tells(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "bad.png").write_text("no picture")
    example().save(folder / "d.tif")  # TIFFs are written by libvips
    caplog.set_level(logging.INFO)
    assert command(folder, tmp_path / "out") == 1
    assert files(tmp_path / "out") == {"a.png", "b.jpg", "d.tif", "sub/c.png"}
    assert "1 of 5: a.png, 16x12 to 64x48" in caplog.text
    assert "4 made, 1 failed" in caplog.text
    assert caplog.records[-1].getMessage().startswith("failed: bad.png: the file is damaged")
    assert not [record for record in caplog.records if record.name.startswith("pyvips")]
    (folder / "bad.png").unlink()
    assert command(folder, tmp_path / "out") == 0
    assert "4 of them already upscaled" in caplog.text


def test_a_dry_run_makes_nothing(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert command(folder, tmp_path / "out", "--dry-run", "--format", "webp") == 0
    assert "would make sub/c.webp from sub/c.png" in caplog.text
    assert not (tmp_path / "out").exists()


def test_metadata_is_stripped_where_wanted(folder: Path, tmp_path: Path) -> None:
    example().save(folder / "a.png", pnginfo=_text())
    for options, kept in (([], True), (["--strip-metadata"], False)):
        assert command(folder / "a.png", tmp_path / "out", *options) == 0
        with Image.open(tmp_path / "out" / "a.png") as file:
            assert ("parameters" in file.info) == kept


def _text() -> PngInfo:
    info = PngInfo()
    info.add_text("parameters", "a cat")
    return info


def test_a_full_disk_ends_the_job_with_what_is_done(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.fsync, []

    def fsync(file: int) -> None:
        calls.append(file)
        if len(calls) == 3:  # the second picture, after the first one and its record
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    caplog.set_level(logging.INFO)
    assert command(folder, tmp_path / "out") == 1
    assert files(tmp_path / "out") == {"a.png"}
    assert "No space left on device" in caplog.text
    assert "1 made, 1 failed, 1 not tried" in caplog.text
    assert command(folder, tmp_path / "out") == 0
    assert len(files(tmp_path / "out")) == 3


def test_ctrl_c_leaves_only_whole_results(folder: Path, tmp_path: Path) -> None:
    for i in range(100):
        shutil.copy(folder / "a.png", folder / f"{i}.png")
    out = tmp_path / "out"
    arguments = ["upscale", str(folder), str(out), "--device", "cpu", "--steps", "4"]
    process = subprocess.Popen(
        [sys.executable, "-m", "lpnsr_impl", *arguments],
        cwd=EXAMPLE.parents[1], stdout=subprocess.PIPE, text=True,
        # restore SIGINT, which background processes of a shell and their children ignore
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    eventually(lambda: bool(list(out.glob("*.png"))))
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, text
    assert "Run the same command again" in text
    assert 0 < len(files(out)) < 103
    for name in files(out):
        with Image.open(out / name) as file:
            file.load()


def test_a_uri_is_as_good_as_a_path(folder: Path, tmp_path: Path) -> None:
    """Source and target can be URIs. For file://, pyarrow is used as for s3:// and gs://."""
    (folder / "out").mkdir()
    example().save(folder / "out" / "no_input.png")
    source, out = folder.as_uri(), (folder / "out").as_uri()
    assert command(source, out) == 0
    assert files(folder / "out") == {"a.png", "b.jpg", "sub/c.png", "no_input.png"}
    before = (folder / "out" / "a.png").stat().st_mtime_ns
    assert command(source, out) == 0
    assert (folder / "out" / "a.png").stat().st_mtime_ns == before
    assert command(f"{source}/a.png", f"{tmp_path.as_uri()}/a.webp") == 0
    assert (tmp_path / "a.webp").exists()
    assert command(source, source) == 1
    assert command(f"{source}/no", out) == 1


def test_durations() -> None:
    assert [format_duration(s) for s in (4.4, 200, 18121)] == ["4 s", "3 min 20 s", "5 h 2 min"]
