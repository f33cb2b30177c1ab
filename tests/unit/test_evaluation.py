"""Evaluation: metrics compared with scikit-image, resuming, and handling of bad pictures."""

import csv
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from lpnsr_impl import load_autoencoder, load_denoiser, load_noise_predictor
from lpnsr_impl.cli import main, parser
from lpnsr_impl.config import RESSHIFT_15, Family
from lpnsr_impl.jobs.evaluation.command import make_methods
from lpnsr_impl.jobs.evaluation.experiments import EXPERIMENTS
from lpnsr_impl.jobs.evaluation.metrics import Measurer
from lpnsr_impl.jobs.evaluation.noise_maps import record_noise
from lpnsr_impl.jobs.evaluation.report import contact_sheet, markdown_table
from lpnsr_impl.jobs.evaluation.run import evaluate, find_pairs
from lpnsr_impl.jobs.upscaler import Method, Upscaler
from lpnsr_impl.pictures.images import bicubic_upsample
from lpnsr_impl.pictures.picture import Picture
from lpnsr_impl.pictures.reading import read_picture, to_pil
from tests.small import autoencoder_weights, denoiser_weights, predictor_weights

OFFLINE = ["PSNR", "SSIM", "NIQE"]
PICTURE = Path(__file__).parents[2] / "workflows" / "lpnsr_example.png"


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    return Upscaler(
        load_autoencoder(autoencoder_weights()),
        load_denoiser(denoiser_weights()),
        load_noise_predictor(predictor_weights()),
        {},
    )


@pytest.fixture(scope="module")
def measurer() -> Measurer:
    return Measurer(OFFLINE)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """LR and HR folder with three pairs of pictures, of 24x16 and 96x64 pixels."""
    lr, hr = tmp_path / "lr", tmp_path / "hr"
    lr.mkdir()
    hr.mkdir()
    for i, name in enumerate("abc"):
        with Image.open(PICTURE) as file:
            truth = file.convert("RGB").crop((20 * i, 10, 20 * i + 96, 74))
        truth.save(hr / f"{name}.png")
        truth.resize((24, 16), Image.Resampling.BOX).save(lr / f"{name}.png")
    return lr, hr


def example() -> Tensor:
    with Image.open(PICTURE) as file:
        rgb = np.asarray(file.convert("RGB"), dtype=np.float32)
    return torch.from_numpy(rgb / 255).movedim(-1, 0)[None]


def as_array(x: Tensor) -> np.ndarray:
    return x[0].movedim(0, -1).double().numpy()


# Metrics


def test_psnr_and_ssim_agree_with_scikit_image(measurer: Measurer) -> None:
    hr = example()
    noise = torch.randn(hr.shape, generator=torch.Generator().manual_seed(0))
    sr = (hr + 0.05 * noise).clamp(0, 1)
    values = measurer.measure(sr, hr)
    y_sr, y_hr = (rgb2ycbcr(as_array(x))[4:-4, 4:-4, 0] for x in (sr, hr))
    expected = peak_signal_noise_ratio(y_hr, y_sr, data_range=255)
    assert values["PSNR"] == pytest.approx(expected, abs=0.02)
    expected = structural_similarity(
        y_hr, y_sr, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert values["SSIM"] == pytest.approx(expected, abs=2e-3)


def test_the_border_does_not_count(measurer: Measurer) -> None:
    hr = example()
    sr = (hr * 0.9).clamp(0, 1)
    spoilt = torch.zeros_like(sr)
    spoilt[:, :, 4:-4, 4:-4] = sr[:, :, 4:-4, 4:-4]
    before, after = measurer.measure(sr, hr), measurer.measure(spoilt, hr)
    assert before["PSNR"] == after["PSNR"]
    assert before["SSIM"] == after["SSIM"]


def test_identical_pictures(measurer: Measurer) -> None:
    values = measurer.measure(example(), example())
    assert math.isinf(values["PSNR"])
    assert values["SSIM"] == pytest.approx(1, abs=1e-6)


def test_niqe_prefers_the_picture_to_its_blurred_and_noisy_versions(measurer: Measurer) -> None:
    x = bicubic_upsample(example()).clamp(0, 1)  # contains several of NIQE's 96x96 blocks
    sharp = example()
    sharp = torch.cat([sharp, sharp.flip(2)], dim=2)
    sharp = torch.cat([sharp, sharp.flip(3)], dim=3)
    noise = torch.randn(sharp.shape, generator=torch.Generator().manual_seed(0))
    natural = measurer.measure(sharp, None)["NIQE"]
    assert natural < measurer.measure(x, None)["NIQE"]
    assert natural < measurer.measure((sharp + 0.2 * noise).clamp(0, 1), None)["NIQE"]


def test_without_hr_only_what_needs_none_is_measured(measurer: Measurer) -> None:
    assert measurer.measure(example(), None).keys() == {"NIQE"}


def test_sizes_that_differ_are_refused(measurer: Measurer) -> None:
    with pytest.raises(ValueError, match="188x124 and the HR picture 188x123"):
        measurer.measure(example(), example()[:, :, :-1])


def test_a_metric_that_cannot_be_loaded_leaves_its_column_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import pyiqa

    real = pyiqa.create_metric

    def offline(name: str, **options: object) -> object:
        if name == "lpips-vgg":
            raise OSError("no network")
        return real(name, **options)

    monkeypatch.setattr(pyiqa, "create_metric", offline)
    measurer = Measurer(["PSNR", "LPIPS"])
    assert "no network" in measurer.missing["LPIPS"]
    assert measurer.measure(example(), example() * 0.9).keys() == {"PSNR"}


def test_unknown_metrics_are_named() -> None:
    with pytest.raises(ValueError, match="FID"):
        Measurer(["FID"])


# Evaluation runs


def run(
    upscaler: Upscaler,
    folders: tuple[Path, Path],
    out: Path,
    methods: list[Method],
    **settings: object,
) -> list[dict[str, str]]:
    return evaluate(upscaler, methods, find_pairs(*folders), Measurer(["PSNR"]), out, settings)


METHODS = [Method("bicubic", steps=0), Method("PreSet-A")]


def test_values_are_those_of_the_written_pictures(
    upscaler: Upscaler, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    measurer = Measurer(["PSNR"])
    rows = run(upscaler, folders, tmp_path / "out", METHODS)
    assert [(r["method"], r["picture"]) for r in rows] == [
        (m.name, p) for m in METHODS for p in "abc"
    ]
    for row in rows:
        with Image.open(
            tmp_path / "out" / "pictures" / row["method"] / f"{row['picture']}.png"
        ) as f:
            sr = torch.from_numpy(np.asarray(f, dtype=np.float32) / 255).movedim(-1, 0)[None]
        with Image.open(folders[1] / f"{row['picture']}.png") as f:
            hr = torch.from_numpy(np.asarray(f, dtype=np.float32) / 255).movedim(-1, 0)[None]
        assert float(row["PSNR"]) == pytest.approx(measurer.measure(sr, hr)["PSNR"], abs=1e-3)


def test_a_run_goes_on_where_it_stopped(
    upscaler: Upscaler, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    rows = run(upscaler, folders, out, METHODS)
    lines = (out / "results.csv").read_text().splitlines()
    # Two complete rows and the beginning of a third.
    (out / "results.csv").write_text("\n".join(lines[:3]) + "\n" + lines[3][:9])
    picture = out / "pictures" / "bicubic" / "a.png"
    before = picture.stat().st_mtime_ns
    again = run(upscaler, folders, out, METHODS)
    assert picture.stat().st_mtime_ns == before, "a finished picture was computed again"
    assert [r["PSNR"] for r in again] == [r["PSNR"] for r in rows]
    with (out / "results.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(rows)


def test_other_settings_need_another_folder(
    upscaler: Upscaler, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    run(upscaler, folders, tmp_path, METHODS, models="one")
    with pytest.raises(ValueError, match="models changed"):
        run(upscaler, folders, tmp_path, METHODS, models="two")
    with pytest.raises(ValueError, match="PreSet-A changed"):
        run(upscaler, folders, tmp_path, [Method("PreSet-A", steps=2)], models="one")


def test_bad_pictures_are_reported_and_skipped(
    upscaler: Upscaler, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    lr, hr = folders
    (lr / "b.png").write_bytes((lr / "b.png").read_bytes()[:60])
    (lr / "d.png").write_text("no picture")
    with Image.open(hr / "c.png") as file:
        file.resize((95, 64)).save(hr / "c.png")
    rows = {r["picture"]: r for r in run(upscaler, folders, tmp_path / "out", METHODS[:1])}
    assert rows["a"]["PSNR"]
    assert not rows["a"]["problem"]
    for name in "bd":
        assert rows[name]["problem"]
        assert not rows[name]["PSNR"]
    assert "HR is 95x64, expected 4 times LR's 24x16" in rows["c"]["problem"]
    table = markdown_table(list(rows.values()), {})
    assert "bicubic, c: left out, HR is 95x64" in table
    sheet = contact_sheet(find_pairs(lr, hr), METHODS[:1], tmp_path / "out")
    assert sheet.size == (3 * 256, 16 + 4 * 256)


def test_damaged_chunks_and_other_surprises_are_reported_too(
    upscaler: Upscaler, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytearray((folders[0] / "a.png").read_bytes())
    data[data.index(b"IDAT") : data.index(b"IDAT") + 4] = b"\x00\x01\x02\x03"
    (folders[0] / "a.png").write_bytes(bytes(data))
    real = Upscaler.upscale

    def surprising(self: Upscaler, lr: Picture, method: Method) -> Tensor:
        if lr.rgb.mean() == pytest.approx(float(read_picture(folders[0] / "b.png").mean())):
            raise AssertionError("unexpected error")
        return real(self, lr, method)

    monkeypatch.setattr(Upscaler, "upscale", surprising)
    rows = {r["picture"]: r for r in run(upscaler, folders, tmp_path / "out", METHODS[:1])}
    assert "a.png can't be read" in rows["a"]["problem"]
    assert rows["b"]["problem"] == "unexpected error"
    assert rows["c"]["PSNR"]


def test_sixteen_bit_grey_keeps_its_range(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "x.png")
    x = read_picture(tmp_path / "x.png")
    assert x.shape == (3, 64, 64)
    assert x.mean().item() == pytest.approx(0.5, abs=1e-3)


def test_a_metric_that_cannot_measure_the_size_leaves_the_others(measurer: Measurer) -> None:
    x = example()[:, :, :64, :96]
    assert measurer.measure(x, x * 0.9).keys() == {"PSNR", "SSIM"}


def test_results_in_the_folder_of_pictures_are_no_pictures(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    out = folders[0] / "out"
    shutil.copytree(folders[1], out / "pictures" / "bicubic")
    assert [p.name for p in find_pairs(*folders, out)] == ["a", "b", "c"]


def test_contact_sheets_are_bounded(folders: tuple[Path, Path], tmp_path: Path) -> None:
    pairs = find_pairs(*folders) * 400
    assert contact_sheet(pairs, METHODS, tmp_path).height < 65_500


def test_tiles_and_one_tile_nearly_agree(upscaler: Upscaler) -> None:
    lr = example()[:, :, :100, :100]
    tiled = replace(upscaler, tile=64)
    a, b = (u.upscale(Picture(lr), Method("m", steps=1)) for u in (upscaler, tiled))
    assert a.shape == b.shape
    assert 0 < (a - b).abs().mean() < 0.15


def test_a_denoiser_of_fifteen_steps_runs_them_all(upscaler: Upscaler) -> None:
    """Sampling uses the schedule of the family of networks, so another schedule gives another
    picture."""
    lr = example()[:, :, :24, :24]
    family = Family(schedule=RESSHIFT_15)
    fifteen = replace(upscaler, noise_predictor=None, family=family)
    off = {4: False, 3: False, 2: False}
    a = fifteen.upscale(Picture(lr), Method("m", steps=15, predictor_on=off))
    other = Family(schedule=replace(RESSHIFT_15, min_noise_level=0.2))
    b = replace(fifteen, family=other).upscale(Picture(lr), Method("m", steps=15, predictor_on=off))
    assert not torch.equal(a, b)
    with pytest.raises(ValueError, match=r"steps is 15, but this denoiser has 4 steps"):
        upscaler.upscale(Picture(lr), Method("m", steps=15))
    steps = record_noise(replace(upscaler, family=family), lr, None, seed=1)
    assert [step.t for step in steps] == list(range(15, 1, -1))


def test_a_missing_pair_has_no_reference_values(
    upscaler: Upscaler, folders: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folders[1] / "b.png").unlink()
    rows = {r["picture"]: r for r in run(upscaler, folders, tmp_path / "out", METHODS[:1])}
    assert "b.png has no HR picture" in caplog.text
    assert (rows["b"]["PSNR"], rows["b"]["problem"]) == ("", "")


def test_two_pictures_of_one_name_are_refused(folders: tuple[Path, Path]) -> None:
    (folders[0] / "more").mkdir()
    to_pil(example()).save(folders[0] / "more" / "a.png")
    with pytest.raises(ValueError, match="two pictures named a"):
        find_pairs(*folders)


def test_means_are_over_the_pictures_that_have_a_value() -> None:
    blank = {
        "SSIM": "",
        "NIQE": "",
        "LPIPS": "",
        "PI": "",
        "CLIPIQA": "",
        "MUSIQ": "",
        "seconds": "1",
    }
    rows = [
        {**blank, "method": "m", "picture": "a", "PSNR": "20", "problem": ""},
        {**blank, "method": "m", "picture": "b", "PSNR": "30", "problem": ""},
        {**blank, "method": "m", "picture": "c", "PSNR": "", "problem": "bad"},
    ]
    line = next(x for x in markdown_table(rows, {}).splitlines() if x.startswith("| m "))
    assert line == "| m | 25.00 |  |  |  |  |  |  | 1.00 | 2 |"


# Experiments


def test_table_1_has_each_preset_at_each_number_of_steps() -> None:
    methods = {m.name: m for m in EXPERIMENTS["table1"](["start.pth"])}
    for steps in (1, 2, 3, 4):
        resshift, a, b = (methods[f"T={steps} {n}"] for n in ("ResShift", "PreSet-A", "PreSet-B"))
        assert {resshift.steps, a.steps, b.steps} == {steps}
        assert not any(resshift.predictor_on.values())
        assert all(a.predictor_on.values())
        assert all(b.predictor_on.values())
        assert (resshift.start, a.start, b.start) == ("bicubic", "bicubic", "start.pth")


def test_table_4_switches_one_step_off_at_a_time() -> None:
    off = [{t for t, on in m.predictor_on.items() if not on} for m in EXPERIMENTS["table4"]([])]
    assert off == [set(), {4}, {3}, {2}, {4, 3, 2}]


def test_table_6_has_a_row_for_each_start() -> None:
    assert [m.start for m in EXPERIMENTS["table6"](["x", "y"])] == ["bicubic", "x", "y"]


def test_noise_of_a_predictor_that_predicts_nothing_is_as_far_as_random_noise() -> None:
    weights = predictor_weights()
    weights["out.2.weight"].zero_()
    weights["out.2.bias"].zero_()
    upscaler = Upscaler(
        load_autoencoder(autoencoder_weights()),
        load_denoiser(denoiser_weights()),
        load_noise_predictor(weights),
        {},
    )
    hr = example()[:, :, :120, :188]
    lr = torch.nn.functional.avg_pool2d(hr, 4)
    steps = record_noise(upscaler, lr, hr, seed=1)
    assert [step.t for step in steps] == [4, 3, 2]
    for step in steps:
        distance = step.errors()
        assert distance is not None
        of_mean, of_used, of_random = distance
        assert of_mean == 1
        assert of_used == pytest.approx(of_random, rel=0.15)
        assert step.used.shape[2:] == lr.shape[2:]


def test_the_command_writes_table_sheet_and_pictures(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["evaluate", "--lr", str(folders[0]), "--hr", str(folders[1]), "--out", str(out),
               "--metrics", "PSNR", "--steps", "2", "--predictor-off", "2"]  # fmt: skip
    assert main(command) == 0
    assert "| PreSet-A |" in capsys.readouterr().out
    assert (out / "sheet.jpg").exists()
    assert "| bicubic |" in (out / "table.md").read_text(encoding="utf-8")
    assert main([*command, "--color-fix", "none"]) == 1  # refused: other settings
    assert main([*command[:5], "--out", str(tmp_path / "noise"), "--experiment", "noise"]) == 0
    assert (tmp_path / "noise" / "noise" / "a.png").exists()
    assert "| 4 |" in (tmp_path / "noise" / "noise.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ("PreSet-A", "bicubic", {4, 3, 2})),
        (["--predictor-off", "3", "2"], ("PreSet-A", "bicubic", {4})),
        (["--preset", "ResShift"], ("ResShift", "bicubic", set())),
        (["--upscale-model", "folder/x.pth"], ("PreSet-B", "x.pth", {4, 3, 2})),
        (["--upscale-model", "x.pth", "--preset", "A"], ("PreSet-A", "bicubic", {4, 3, 2})),
    ],
)
def test_presets(options: list[str], expected: tuple[str, str, set[int]]) -> None:
    parsed = parser().parse_args(["evaluate", "--lr", "x", "--out", "y", *options])
    bicubic, method = make_methods(parsed)
    assert (bicubic.start, bicubic.steps) == ("bicubic", 0)
    on = {t for t, on in method.predictor_on.items() if on}
    assert (method.name, method.start, on) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "B"], "--upscale-model"),
        (["--noise-predictor", "none"], "--preset ResShift"),
        (["--upscale-model", "a/x.pth", "--upscale-model", "b/x.pth"], "same file name"),
    ],
)
def test_options_that_contradict_each_other(options: list[str], message: str) -> None:
    parsed = parser().parse_args(["evaluate", "--lr", "x", "--out", "y", *options])
    with pytest.raises(ValueError, match=message):
        make_methods(parsed)


def test_a_student_is_a_row_of_its_own_name_and_has_no_steps_to_compare(
    folders: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(denoiser_weights(), tmp_path / "SinSR_v2.pth")
    torch.save(autoencoder_weights(), tmp_path / "a.pth")
    command = ["evaluate", "--lr", str(folders[0]), "--hr", str(folders[1]), "--metrics", "PSNR",
               "--autoencoder", str(tmp_path / "a.pth"),
               "--denoiser", str(tmp_path / "SinSR_v2.pth")]  # fmt: skip
    assert main([*command, "--out", str(tmp_path / "none")]) == 1
    assert "one-step student (SinSR)" in caplog.text
    command += ["--noise-predictor", "none"]
    out = tmp_path / "out"
    with caplog.at_level("INFO"):
        assert main([*command, "--out", str(out)]) == 0
    assert "SinSR takes one step; --steps and --predictor-off are ignored" in caplog.text
    assert "| SinSR |" in (out / "table.md").read_text(encoding="utf-8")
    assert main([*command, "--out", str(tmp_path / "x"), "--experiment", "table1"]) == 1
    assert "SinSR has one step and no noise predictor. Leave --experiment out" in caplog.text


@pytest.mark.parametrize("experiment", ["table1", "noise"])
def test_an_experiment_takes_no_preset(
    experiment: str, folders: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    command = ["evaluate", "--lr", str(folders[0]), "--out", str(tmp_path / "out")]
    assert main([*command, "--experiment", experiment, "--steps", "2"]) == 1
    assert "Leave out --preset, --steps and --predictor-off" in caplog.text


def test_a_missing_model_is_named(folders: tuple[Path, Path], tmp_path: Path,
                                  caplog: pytest.LogCaptureFixture) -> None:  # fmt: skip
    command = ["evaluate", "--lr", str(folders[0]), "--out", str(tmp_path), "--denoiser", "no.pth"]
    assert main(command) == 1
    assert "There is no file 'no.pth'" in caplog.text
