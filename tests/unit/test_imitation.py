"""Denoisers and noise predictors without norms, which learn what others do; several trainings."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import default_collate

from lpnsr_impl import load_denoiser, load_noise_predictor
from lpnsr_impl.accelerate import accelerate
from lpnsr_impl.cli import main
from lpnsr_impl.config import UNetConfig
from lpnsr_impl.files.weights import UnsupportedCheckpointError
from lpnsr_impl.jobs.training.config import LossWeights, Networks, TrainConfig
from lpnsr_impl.jobs.training.data import Crops
from lpnsr_impl.jobs.training.fixed_norms import fix_norms
from lpnsr_impl.jobs.training.stages import train_stages
from lpnsr_impl.jobs.training.tasks.imitation import ImitationTask
from lpnsr_impl.jobs.training.trainer import Trainer
from lpnsr_impl.models import Denoiser, NoisePredictor
from tests.small import (
    autoencoder_weights,
    denoiser_weights,
    predictor_weights,
    save_crops,
    unet_config,
)
from tests.unit.test_training import UNET_HEADER, weights_of

pytestmark = pytest.mark.training


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> Iterator[None]:
    """Accelerate keeps the precision of a process's first training."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_crops(tmp_path_factory.mktemp("pictures"), 4, (12, 5))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    folder = tmp_path_factory.mktemp("networks")
    save_file(autoencoder_weights(), folder / "a.safetensors")
    for name, weights, channels in (
        ("denoiser", denoiser_weights, (6, 3)), ("noise_predictor", predictor_weights, (9, 6))
    ):  # fmt: skip
        small, part = unet_config(*channels, trained_resolution=16), {"lpnsr.part": name}
        save_file(weights(small), folder / f"{name}.safetensors", UNET_HEADER | part)
    return Networks(
        autoencoder=str(folder / "a.safetensors"),
        denoiser=str(folder / "denoiser.safetensors"),
        noise_predictor=str(folder / "noise_predictor.safetensors"),
    )


@pytest.fixture(scope="module", params=["denoiser", "noise_predictor"])
def config(request: pytest.FixtureRequest, files: Networks) -> TrainConfig:
    return TrainConfig(
        task="imitation", steps=30, batch=2, crop=64, validation_crop=64, validation_pictures=1,
        validate_every=30, ema=0.5, family="small", learning_rate=1e-3, best="imitation",
        size={"norm_groups": 0}, networks=replace(files, init=getattr(files, request.param)),
        loss=LossWeights(imitation=1),
    )  # fmt: skip


UNETS: list[tuple[type[Denoiser | NoisePredictor], Callable[..., Denoiser | NoisePredictor]]] = [
    (Denoiser, load_denoiser),
    (NoisePredictor, load_noise_predictor),
]


def inputs_of(kind: type[nn.Module], side: int) -> tuple[Tensor | int, ...]:
    draw = torch.Generator().manual_seed(0)
    x, x0, lr = (torch.randn(1, 3, side, side, generator=draw) for _ in range(3))
    return (x, 2, lr) if kind is Denoiser else (x, x0, lr, 2)


def one(output: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    return output if isinstance(output, Tensor) else torch.cat(output)


@pytest.mark.parametrize(("kind", "load"), UNETS)
@torch.no_grad()
def test_fixed_norms_do_what_the_norms_did_on_average(
    kind: type[nn.Module], load: Callable[..., Denoiser | NoisePredictor], tmp_path: Path
) -> None:
    """By one run they do the same in that one, from a file and accelerated too."""
    channels = (6, 3) if kind is Denoiser else (9, 6)
    normed = load(
        denoiser_weights() if kind is Denoiser else predictor_weights(unet_config(*channels))
    )
    fixed = type(normed)(replace(normed.config, norm_groups=0)).eval()
    assert not any(isinstance(module, nn.GroupNorm) for module in fixed.modules())
    own = {
        key for key, x in fixed.state_dict().items() if x.shape == normed.state_dict()[key].shape
    }
    fixed.load_state_dict({key: normed.state_dict()[key] for key in own}, strict=False)
    inputs = inputs_of(kind, 64)
    fix_norms(normed, fixed, lambda: normed(*inputs))
    expected = one(normed(*inputs))
    torch.testing.assert_close(one(fixed(*inputs)), expected, atol=1e-3, rtol=1e-3)
    path = tmp_path / "fixed.safetensors"
    save_file({key: x.contiguous() for key, x in fixed.state_dict().items()}, path)
    loaded = load(path)
    assert loaded.config == replace(normed.config, norm_groups=0)
    accelerate(loaded, torch.device("cpu"))
    torch.testing.assert_close(one(loaded(*inputs)), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("groups", "message"), [(7, "norm_groups = 7, which"), (0, "1 or more")])
def test_groups_that_cannot_be_are_refused(tmp_path: Path, groups: int, message: str) -> None:
    path = tmp_path / "d.safetensors"
    save_file(denoiser_weights(), path, {"lpnsr.config": f'{{"norm_groups": {groups}}}'})
    with pytest.raises(UnsupportedCheckpointError, match=message):
        load_denoiser(path)


def test_a_network_without_norms_learns_what_one_with_norms_does(
    config: TrainConfig, pictures: Path, tmp_path: Path
) -> None:
    trainer = Trainer(config, pictures, tmp_path, cpu=True)
    task = trainer.task
    assert isinstance(task, ImitationTask)
    assert task.network.config == replace(
        task.original.config, norm_groups=0, largest_tile=UNetConfig.largest_tile
    )
    batch = default_collate([trainer.held_out[0]])
    before = task.validate(trainer.ema.module, batch)[0]["imitation"]
    original = weights_of(task.original).clone()
    trainer.run()
    after = task.validate(trainer.ema.module, batch)[0]["imitation"]
    assert after < 0.7 * before
    assert torch.equal(weights_of(task.original), original)


def test_it_imitates_each_step_of_a_chain(config: TrainConfig, pictures: Path) -> None:
    """By itself, without other norms, its error is nothing."""
    task = ImitationTask(replace(config, size={}))
    crops = Crops(sorted(pictures.iterdir()), 64, 0, degraded=True, augment=True)
    with torch.no_grad():
        terms = task(default_collate([crops[i] for i in range(3)])).terms
    assert terms.keys() == {"imitation"}
    assert terms["imitation"] < 1e-9


def test_what_is_missing_is_told(config: TrainConfig) -> None:
    with pytest.raises(ValueError, match=r"networks\.init is empty"):
        ImitationTask(replace(config, networks=replace(config.networks, init="")))
    if "predictor" in config.networks.init:
        with pytest.raises(ValueError, match=r"networks\.denoiser is empty"):
            ImitationTask(replace(config, networks=replace(config.networks, denoiser="")))


# Several trainings


def test_each_training_takes_the_networks_of_those_before(
    files: Networks, pictures: Path, tmp_path: Path
) -> None:
    shared = "crop = 64\nvalidation_crop = 64\nvalidation_pictures = 1\nsteps = 2\nbatch = 2\n"
    for name, text in {
        "first": f'task = "decoder"\n{shared}[networks]\ninit = "{files.autoencoder}"\n'
        "[loss]\nl1 = 1.0\n",
        "second": f'task = "imitation"\n{shared}[networks]\nautoencoder = "{files.autoencoder}"\n'
        f'init = "{files.denoiser}"\n[loss]\nimitation = 1.0\n',
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
    train_stages(names, ["seed=3"], pictures, tmp_path / "out", cpu=True)  # nothing is left to do
    assert state.stat().st_mtime_ns == before
