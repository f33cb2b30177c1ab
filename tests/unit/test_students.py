"""One-step students (SinSR, RSD): detection of their files, and their single sampling step."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lpnsr_impl import (
    Schedule,
    UnsupportedCheckpointError,
    check_family,
    load_autoencoder,
    load_denoiser,
    sample_once,
)
from lpnsr_impl.config import LPNSR_SCHEDULE, RESSHIFT_15, RSD, SINSR, Family, StudentConfig
from lpnsr_impl.engine.engine import Engine
from lpnsr_impl.engine.tiled import MARGIN, Tiling
from lpnsr_impl.files.checkpoints import load_model
from lpnsr_impl.files.convert import convert
from lpnsr_impl.jobs.upscaler import Method, Upscaler
from lpnsr_impl.method.noise import seeded_noise
from lpnsr_impl.method.sampler import Sampling
from lpnsr_impl.pictures.picture import Picture
from tests.small import autoencoder_weights, denoiser_weights, predictor_weights, unet_config

T = RESSHIFT_15.num_timesteps
PIXEL = replace(RSD, condition="pixel")


def weights_of(student: StudentConfig | None) -> dict[str, Tensor]:
    planes = student.noise_planes if student else 0
    return denoiser_weights(unet_config(in_channels=6 + planes))


def noise_of(seed: int, kind: str, *shape: int) -> Tensor:
    return seeded_noise(seed, T)(kind, T, torch.Size(shape))


# Detection of student files


@pytest.mark.parametrize(
    ("name", "student", "header", "expected"),
    [
        ("SinSR_v1.pth", SINSR, {}, SINSR),
        ("SinSR_v2.pth", SINSR, {}, SINSR),
        ("sinsr_v2.safetensors", SINSR, {}, SINSR),
        (
            "rsd_student_final.safetensors",
            RSD,
            {"noise_mode": "concat", "noise_channels": "1"},
            RSD,
        ),
        ("rsd_student_final.safetensors", RSD, {"cond_lq": "pixel"}, PIXEL),
        ("mine.safetensors", RSD, {"noise_mode": "concat", "cond_lq": "latent"}, RSD),
        ("mine.pth", RSD, {}, RSD),  # detected by its seven input channels
        ("mine.safetensors", SINSR, {"lpnsr.student": "SinSR"}, SINSR),
        ("mine.safetensors", RSD, {"lpnsr.student": "RSD", "cond_lq": "pixel"}, PIXEL),
        ("SinSR_v1.safetensors", None, {"lpnsr.student": "none"}, None),
        ("resshift_realsrx4_s15_v1.pth", None, {}, None),
        ("notsinsrness.pth", None, {}, None),
    ],
)
def test_names_headers_and_channels_tell_students(
    tmp_path: Path,
    name: str,
    student: StudentConfig | None,
    header: dict[str, str],
    expected: StudentConfig | None,
) -> None:
    path = tmp_path / name
    if path.suffix == ".pth":
        torch.save(weights_of(student), path)
    else:
        save_file(weights_of(student), path, header)
    denoiser = load_model(path)
    assert denoiser.student == expected
    of_teacher = expected is not None or "_s15" in name
    assert denoiser.schedule == (RESSHIFT_15 if of_teacher else LPNSR_SCHEDULE)


@pytest.mark.parametrize(
    ("name", "student", "header", "message"),
    [
        ("r.safetensors", None, {"noise_mode": "add"}, "noise_mode 'add', but only 'concat'"),
        ("r.safetensors", RSD, {"noise_mode": "add"}, "noise_mode 'add', but only 'concat'"),
        ("rsd_student_x2.safetensors", RSD, {}, "RSD student for x2, but this pack upscales x4"),
        ("r.safetensors", RSD, {"scale": "2"}, "RSD student for x2, but this pack upscales x4"),
        ("r.safetensors", RSD, {"cond_lq": "depth"}, "'depth', expected pixel or latent"),
        ("r.safetensors", RSD, {"noise_channels": "2"}, "with 7 input and 3 output channels"),
        ("r.safetensors", RSD, {"noise_channels": "one"}, "'one', expected a number of 1 or more"),
        ("rsd_student_final.pth", None, {}, "with 0 channels of noise in its input, expected 1"),
        ("r.safetensors", None, {"lpnsr.student": "DMD"}, "'DMD', expected SinSR, RSD or none"),
        ("r.safetensors", RSD, {"lpnsr.student": "SinSR"}, "like an RSD student"),
    ],
)
def test_students_that_do_not_run_here_are_refused_by_name(
    tmp_path: Path, name: str, student: StudentConfig | None, header: dict[str, str], message: str
) -> None:
    path = tmp_path / name
    if path.suffix == ".pth":
        torch.save(weights_of(student), path)
    else:
        save_file(weights_of(student), path, header)
    with pytest.raises(UnsupportedCheckpointError, match=f"{name}: .*{message}"):
        load_denoiser(path)


@pytest.mark.parametrize(
    ("name", "student", "header"),
    [
        ("SinSR_v2.pth", SINSR, {}),
        ("rsd_student_final.safetensors", PIXEL, {"noise_mode": "concat", "cond_lq": "pixel"}),
        ("rsd.pth", RSD, {}),
        ("resshift_realsrx4_s15_v2.pth", None, {}),
    ],
)
def test_a_converted_file_is_known_under_any_name(
    tmp_path: Path, name: str, student: StudentConfig | None, header: dict[str, str]
) -> None:
    path = tmp_path / name
    if path.suffix == ".pth":
        torch.save(weights_of(student), path)
    else:
        save_file(weights_of(student), path, header)
    convert(path, tmp_path / "renamed.safetensors")
    renamed = load_model(tmp_path / "renamed.safetensors")
    assert renamed.student == student
    assert renamed.schedule == RESSHIFT_15


def test_a_student_goes_with_the_family_and_without_a_predictor(tmp_path: Path) -> None:
    denoiser, autoencoder = load_model(weights_of(RSD)), load_model(autoencoder_weights())
    family = check_family(autoencoder, denoiser, None)
    assert family == Family("unnamed", RESSHIFT_15, RSD)
    predictor = replace(load_model(predictor_weights()), schedule=RESSHIFT_15)
    with pytest.raises(ValueError, match=r"one-step student \(RSD\).*'none' as the noise predic"):
        check_family(autoencoder, denoiser, predictor)


# The single sampling step


class Recording:
    """A denoiser that records its inputs, and always predicts 0.5."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, int, Tensor]] = []

    def __call__(self, x: Tensor, t_index: int, condition: Tensor) -> Tensor:
        self.calls.append((x, t_index, condition))
        return torch.full_like(x, 0.5)


@pytest.mark.parametrize("student", [SINSR, PIXEL, RSD])
@pytest.mark.parametrize("kappa", [2.0, 1.0])
def test_one_call_from_t_15_with_its_own_start_and_condition(
    student: StudentConfig, kappa: float
) -> None:
    y0, lr = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    denoiser, seen = Recording(), []
    schedule = Schedule(**vars(RESSHIFT_15), kappa=kappa)
    x0 = sample_once(
        denoiser,
        student,
        schedule,
        y0,
        lr,
        noise=seeded_noise(3, T),
        callback=lambda t, x_t, x0_pred: seen.append((t, x_t, x0_pred)),
    )
    ((x, t_index, condition),) = denoiser.calls
    assert t_index == 14
    start = 1.0 if student.name == "RSD" else 0.99
    x_t = y0 + kappa * start * noise_of(3, "init", 2, 3, 8, 8)
    assert torch.allclose(x, x_t / (0.99**2 * kappa**2 + 1) ** 0.5, atol=1e-6)
    assert torch.equal(condition[:, :3], y0 if student.condition == "latent" else lr)
    assert condition.shape[1] == 3 + student.noise_planes
    if student.noise_planes:
        assert torch.equal(condition[:, 3:], noise_of(3, "plane", 2, 1, 8, 8))
    ((t, seen_x_t, seen_x0),) = seen
    assert t == 15
    assert torch.allclose(seen_x_t, x_t, atol=1e-6)
    assert seen_x0 is x0


def test_the_plane_is_noise_of_its_own() -> None:
    """The noise plane in RSD's input is independent of the initial noise. Drawing both from
    generators with the same state would repeat values."""
    z, eps = noise_of(5, "init", 1, 3, 64, 64), noise_of(5, "plane", 1, 1, 64, 64)
    for channel in z.split(1, dim=1):
        assert abs(float((channel * eps).mean())) < 0.05
    assert not torch.equal(eps, noise_of(6, "plane", 1, 1, 64, 64))
    assert abs(float(eps.mean())) < 0.05
    assert abs(float(eps.std()) - 1) < 0.05


def test_shapes_that_disagree_are_refused() -> None:
    with pytest.raises(ValueError, match="with equal B, h, w"):
        sample_once(
            Recording(),
            SINSR,
            Schedule(**vars(RESSHIFT_15)),
            torch.zeros(1, 3, 8, 8),
            torch.zeros(1, 3, 8, 16),
            noise=seeded_noise(1, T),
        )


@pytest.mark.parametrize("student", [SINSR, RSD])
@torch.no_grad()
def test_a_picture_takes_one_call_whatever_steps_say_and_tiles_see_one_noise(
    student: StudentConfig,
) -> None:
    denoiser = load_denoiser(weights_of(student))
    inputs: list[Tensor] = []
    hook = denoiser.register_forward_pre_hook(
        lambda _, args: inputs.append(torch.cat(args[::2], 1))
    )
    h, w = 64 - 2 * MARGIN, 96 - 2 * MARGIN  # 64x96 with the engine's margin
    y0, lr = torch.randn(1, 3, h, w), Picture(torch.rand(1, 3, h, w))
    family = Family("unnamed", RESSHIFT_15, student)
    autoencoder = load_autoencoder(autoencoder_weights())
    engine = Upscaler(autoencoder, denoiser, None, {}, family=family).engine

    def run(tiling: Tiling | None = None, **sampling: int) -> Tensor:
        inputs.clear()
        tiled = Engine(engine.networks, engine.memory, tiling)
        return tiled.sample(y0, lr, Sampling(seed=7, **sampling))

    whole = run(steps=4)
    assert len(inputs) == 1
    (whole_input,) = inputs
    assert torch.equal(whole, run(steps=1))
    tiled = run(Tiling(64, 32))
    left, right = torch.cat(inputs)
    assert torch.equal(left, whole_input[0, ..., :64])
    assert torch.equal(right, whole_input[0, ..., 32:])
    hook.remove()
    assert tiled.shape == whole.shape
    assert (tiled - whole).abs().mean() < 0.5 * whole.std()


@torch.no_grad()
def test_rsd_is_decoded_as_it_is_and_sinsr_by_codes() -> None:
    """RSD's latents are decoded without the quantiser, SinSR's with it."""
    autoencoder = load_autoencoder(autoencoder_weights())
    denoiser = load_denoiser(weights_of(SINSR))
    lr = torch.rand(1, 3, 16, 16)
    quantized: list[bool] = []
    decode = autoencoder.decode

    def record(z: Tensor, quantize: bool = True) -> Tensor:
        quantized.append(quantize)
        return decode(z, quantize)

    autoencoder.decode = record
    for student in (SINSR, replace(SINSR, quantize=False)):
        family = Family("unnamed", RESSHIFT_15, student)
        upscaler = Upscaler(autoencoder, denoiser, None, {}, family=family)
        assert upscaler.upscale(Picture(lr), Method("x")).shape == (1, 3, 64, 64)
    assert quantized == [True, False]


def test_the_header_of_a_schedule_comes_before_that_of_the_teacher(tmp_path: Path) -> None:
    given = replace(RESSHIFT_15, power=0.5)
    header = {"lpnsr.student": "SinSR", "lpnsr.schedule": json.dumps(vars(given))}
    save_file(weights_of(SINSR), tmp_path / "x.safetensors", header)
    assert load_model(tmp_path / "x.safetensors").schedule == given
