"""The trainer: settings, data, losses, tasks, resuming, exported files, and the commands."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from spandrel import ImageModelDescriptor, ModelLoader
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import default_collate

from lpnsr_impl import Schedule, load_autoencoder, load_denoiser, load_noise_predictor, sample
from lpnsr_impl.cli import main
from lpnsr_impl.config import RESSHIFT_15
from lpnsr_impl.files.checkpoints import load_model
from lpnsr_impl.jobs.training.codes import fit_codes
from lpnsr_impl.jobs.training.config import (
    SHIPPED,
    Discriminator,
    LossWeights,
    Networks,
    TrainConfig,
    read_config,
)
from lpnsr_impl.jobs.training.data import Crops, batches, split_pictures
from lpnsr_impl.jobs.training.discriminator import (
    FeatureDiscriminator,
    PatchDiscriminator,
    discriminator_loss,
)
from lpnsr_impl.jobs.training.export import export_network
from lpnsr_impl.jobs.training.fixed_norms import fix_norms
from lpnsr_impl.jobs.training.losses import ImageLoss, gradient_loss, pyramid_loss
from lpnsr_impl.jobs.training.networks import copy_denoiser, make_model
from lpnsr_impl.jobs.training.tasks import TASKS
from lpnsr_impl.jobs.training.tasks.autoencoder import FITTED_ON
from lpnsr_impl.jobs.training.tasks.denoiser import DenoiserTask
from lpnsr_impl.jobs.training.tasks.noise_predictor import NoisePredictorTask
from lpnsr_impl.jobs.training.trainer import Trainer
from lpnsr_impl.models import Autoencoder, NoisePredictor
from lpnsr_impl.pictures.images import to_pm1
from lpnsr_impl.pictures.reading import read_picture
from tests.eventually import PATIENCE
from tests.limits import limit_file_size
from tests.small import (
    PICTURE,
    autoencoder_weights,
    denoiser_weights,
    predictor_weights,
    save_crops,
    unet_config,
)

pytestmark = pytest.mark.training

PACK = Path(__file__).parents[2]
UNET_HEADER = {"lpnsr.config": json.dumps({"trained_resolution": 16, "head_width": 16})}
UNET_SIZE = {
    **{k: v for k, v in vars(unet_config()).items() if not k.endswith("_channels")},
    "model_channels": 32,
    "level_channels": [32, 64],
    "trained_resolution": 16,
}


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> Iterator[None]:
    """Reset Accelerate after each test, since it keeps the precision of the first training in a
    process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_crops(tmp_path_factory.mktemp("pictures"), 8, (12, 5))


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    """Paths of a small autoencoder and a small denoiser, for tasks that need frozen networks."""
    folder = tmp_path_factory.mktemp("networks")
    autoencoder, denoiser = folder / "autoencoder.safetensors", folder / "denoiser.safetensors"
    save_file(autoencoder_weights(), autoencoder)
    config = unet_config(trained_resolution=16)
    save_file(denoiser_weights(config), denoiser, UNET_HEADER | {"lpnsr.part": "denoiser"})
    return Networks(autoencoder=str(autoencoder), denoiser=str(denoiser))


@pytest.fixture(scope="module")
def configs(networks: Networks) -> dict[str, TrainConfig]:
    """A small training config for each task, with all losses that it supports."""
    shared = {"steps": 6, "batch": 2, "crop": 64, "validation_crop": 64, "family": "small",
              "validate_every": 3, "save_every": 3, "learning_rate": 1e-3,
              "validation_pictures": 2}  # fmt: skip
    sizes = {"level_channels": [32, 64, 64], "num_res_blocks": 1, "num_codes": 64}
    shared["discriminator"] = Discriminator(channels=8, layers=2, start_epoch=1, every=1)
    images = LossWeights(l1=1, pyramid=0.5, gradient=0.5, gan=0.1)
    both = replace(networks, init="")
    return {
        "autoencoder": TrainConfig(
            task="autoencoder", size=sizes, loss=replace(images, codebook=1.0), **shared
        ),
        "decoder": TrainConfig(
            task="decoder",
            networks=Networks(init=networks.autoencoder),
            loss=images,
            **shared,
        ),
        "denoiser": TrainConfig(
            task="denoiser", size=UNET_SIZE, networks=both, loss=LossWeights(latent=1), **shared
        ),
        "noise_predictor": TrainConfig(
            task="noise_predictor",
            networks=replace(networks, init=networks.denoiser),
            loss=replace(images, noise=0.1),
            **shared,
        ),
        "compact": TrainConfig(
            task="compact", size={"num_feat": 8, "num_conv": 2}, loss=images, **shared
        ),
    }


def weights_of(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


LOADERS: dict[str, Callable[[Path], object]] = {
    "autoencoder": load_autoencoder,
    "decoder": load_autoencoder,
    "denoiser": load_denoiser,
    "noise_predictor": load_noise_predictor,
    "compact": lambda path: ModelLoader("cpu").load_from_file(str(path)),
}

# Settings


@pytest.mark.parametrize("name", [p.stem for p in sorted(SHIPPED.glob("*.toml"))])
def test_shipped_configs_can_be_read(name: str) -> None:
    assert read_config(name).task in TASKS


def test_the_papers_settings_are_the_papers() -> None:
    config = read_config("paper-predictor")
    assert (config.batch, config.crop, config.learning_rate, config.learning_rate_end) == (
        16, 256, 5e-5, 1e-5)  # fmt: skip
    assert (config.ema, config.clip, config.weight_decay) == (0.999, 1.0, 0.0)
    assert config.loss == LossWeights(l1=1, lpips=1, gan=0.1)
    assert (config.discriminator.start_epoch, config.discriminator.every) == (2, 2)


def test_settings_can_be_overridden() -> None:
    config = read_config("lite-predictor", ["steps=50", "loss.gan=0.5", 'networks.init=""'])
    assert (config.steps, config.loss.gan, config.networks.init) == (50, 0.5, "")
    assert config.loss == replace(read_config("lite-predictor").loss, gan=0.5)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stepz=5", "'stepz' is unknown, expected one of task, steps, batch"),
        ("steps=0", "steps is 0, expected greater than or equal to 1"),
        ("steps=1.5", "steps is 1.5, expected a valid integer"),
        ("crop=130", "multiple of 4"),
        ('task="gan"', "task is 'gan', expected 'autoencoder', 'decoder'"),
        ("loss.l2=1.0", "'l2' is unknown, expected one of l1, lpips"),
        ("betas=[0.9]", r"betas\.1 is missing"),
        ("steps", "Strings need quotes"),
        ("loss={l1=0.0}", "all losses are 0"),
        ("compile=1", "compile is 1, expected a valid boolean"),
        ("clip=0.0", "clip is 0.0, expected greater than 0"),
        ("discriminator.every=0", "discriminator.every is 0, expected greater"),
    ],
)
def test_wrong_settings_are_named(override: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('task = "compact"\nsteps = 5\nbatch = 2\ncrop = 64\n[loss]\nl1 = 1.0\n')
    assert read_config(str(path)).steps == 5
    with pytest.raises(ValueError, match=message):
        read_config(str(path), [override, "loss.l1=0.0"] if "all" in message else [override])


def test_a_missing_config_lists_the_shipped_ones() -> None:
    with pytest.raises(FileNotFoundError, match="lite-denoiser"):
        read_config("no-such")


# Data


def test_samples_depend_on_seed_and_number_alone(pictures: Path) -> None:
    files = sorted(pictures.iterdir())
    a, b = (Crops(files, 64, 1, degraded=True, augment=True) for _ in range(2))
    for index in (5, 0, 13):
        assert all(torch.equal(a[index][key], b[index][key]) for key in ("hr", "lr", "index"))
    other = Crops(files, 64, 2, degraded=True, augment=True)
    assert not torch.equal(a[0]["hr"], other[0]["hr"])


def test_an_epoch_has_each_picture_once(pictures: Path, tmp_path: Path) -> None:
    for i in range(5):
        Image.new("RGB", (64, 64), (50 * i, 0, 0)).save(tmp_path / f"{i}.png")
    crops = Crops(sorted(tmp_path.iterdir()), 64, 0, degraded=False, augment=True)
    epochs = [[round(float(crops[5 * e + i]["hr"][0, 0, 0]), 3) for i in range(5)] for e in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert len(set(epochs[0])) == 5
    assert epochs[0] != epochs[1], "every epoch has the same order"


def test_sizes_and_ranges_of_a_sample(tmp_path: Path) -> None:
    Image.open(PICTURE).convert("L").crop((0, 0, 40, 20)).save(tmp_path / "small.png")
    sample = Crops([tmp_path / "small.png"], 64, 0, degraded=True, augment=True)[0]
    assert sample["hr"].shape == (3, 64, 64)
    assert sample["lr"].shape == (3, 16, 16)
    assert sample["hr"].min() >= -1
    assert sample["hr"].max() <= 1


def test_without_degradation_lr_is_hr_averaged(pictures: Path) -> None:
    sample = Crops(sorted(pictures.iterdir()), 64, 0, degraded=False, augment=True)[3]
    assert torch.allclose(sample["lr"], nn.functional.avg_pool2d(sample["hr"], 4), atol=1e-6)


def test_processes_share_out_the_same_batches() -> None:
    alone = list(batches(3, 6, 4))
    shares = [list(batches(3, 6, 4, rank, 2)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*shares, strict=True)] == alone
    assert alone[0] == [12, 13, 14, 15]


def test_validation_pictures_are_kept_out_of_training() -> None:
    files = [Path(str(i)) for i in range(40)]
    training, validation = split_pictures(files, 16, 0)
    assert (len(training), len(validation)) == (30, 10)
    assert not set(training) & set(validation)
    assert split_pictures(files[:2], 16, 0) == (files[:2], files[:1])


# Losses


def test_image_losses_are_zero_for_equal_pictures_and_weighted() -> None:
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    losses = ImageLoss(LossWeights(l1=2, pyramid=1, gradient=1))
    assert all(float(value) == 0 for value in losses(x, x).values())
    shifted = losses(x + 0.1, x)
    assert float(shifted["l1"]) == pytest.approx(0.2, rel=1e-4)
    assert float(shifted["pyramid"]) == pytest.approx(0.2, rel=1e-4)
    assert float(shifted["gradient"]) == pytest.approx(0, abs=1e-6)


def test_gradient_loss_sees_edges_and_pyramid_loss_does_not_see_what_averages_out() -> None:
    flat = torch.zeros(1, 3, 8, 8)
    checks = torch.ones(1, 3, 8, 8)
    checks[..., ::2] = -1
    assert float(pyramid_loss(checks, flat)) == 0
    assert float(gradient_loss(checks, flat)) == pytest.approx(2)


def test_lpips_without_its_weights_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import pyiqa

    def offline(name: str, **options: object) -> object:
        raise OSError("Name or service not known")

    monkeypatch.setattr(pyiqa, "create_metric", offline)
    with pytest.raises(RuntimeError, match=r"set loss.lpips=0.0"):
        ImageLoss(LossWeights(lpips=1))


def test_the_discriminator_learns_to_tell_two_kinds_apart() -> None:
    torch.manual_seed(0)
    judge = PatchDiscriminator(3, 8, 2)
    optimizer = torch.optim.Adam(judge.parameters(), 1e-2)
    for _ in range(60):
        real, fake = torch.randn(4, 3, 16, 16), torch.randn(4, 3, 16, 16) * 0.3
        loss = discriminator_loss(judge(real), judge(fake))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.5, (
        "the discriminator learned too little: guessing has a loss of 1"
    )


def test_a_judge_of_features_learns_by_its_heads_alone() -> None:
    torch.manual_seed(0)
    judge = FeatureDiscriminator(8)
    judge.requires_grad_(False)
    judge.requires_grad_(True)
    heads = [p for p in judge.parameters() if p.requires_grad]
    before = weights_of(judge.backbone)
    optimizer = torch.optim.Adam(heads, 1e-2)
    real = to_pm1(read_picture(PICTURE)[None, :, :64, :64])
    fake = F.avg_pool2d(real, 3, 1, 1)
    assert judge(real).shape == (1, 5, 16, 16)
    for _ in range(40):
        loss = discriminator_loss(judge(real), judge(fake))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.5, (
        "the discriminator learned too little: guessing has a loss of 1"
    )
    assert torch.equal(weights_of(judge.backbone), before)


@pytest.mark.parametrize("features", [False, True])
def test_a_predictors_judge_sees_latents_or_by_features_pictures(
    configs: dict[str, TrainConfig], pictures: Path, tmp_path: Path, features: bool
) -> None:
    config = configs["noise_predictor"]
    judge = replace(config.discriminator, features=features)
    config = replace(config, loss=replace(config.loss, gan=0.1), discriminator=judge)
    trainer = Trainer(config, pictures, tmp_path, cpu=True)
    losses = trainer.task(default_collate([trainer.crops[0]]))
    assert losses.fake is not None
    assert losses.real is not None
    assert losses.fake.shape == losses.real.shape
    latent = config.crop // 4
    assert losses.fake.shape[2] == (config.crop if features else latent)
    trainer.run(stop_at=1)


def test_a_crop_too_small_for_the_discriminator_is_named() -> None:
    with pytest.raises(ValueError, match=r"16x16, expected at least 24x24"):
        PatchDiscriminator(3)(torch.zeros(1, 3, 16, 16))
    assert PatchDiscriminator(3)(torch.zeros(1, 3, 24, 24)).shape[1] == 1


# Initial weights


def test_a_fresh_noise_predictor_is_random_noise(configs: dict[str, TrainConfig]) -> None:
    predictor = make_model(configs["noise_predictor"]).network
    assert isinstance(predictor, NoisePredictor)
    x = torch.randn(1, 3, 16, 16)
    mean, logvar = predictor(x, x, x, 2)
    assert not mean.any()
    assert not logvar.any()


def test_a_noise_predictor_takes_over_the_denoisers_features(networks: Networks) -> None:
    denoiser = load_denoiser(networks.denoiser)
    predictor = NoisePredictor(replace(denoiser.config, in_channels=9, out_channels=6))
    copied = copy_denoiser(denoiser, predictor)
    assert copied == len(predictor.state_dict()) - 2, "expected all but the last layer's tensors"
    with torch.no_grad():
        for name in ("weight", "bias"):
            last = denoiser.state_dict()[f"out.2.{name}"]
            predictor.state_dict()[f"out.2.{name}"].copy_(torch.cat([last, last]))
        x, lr, ignored = torch.randn(3, 1, 3, 16, 16)
        mean, _ = predictor(x, ignored, lr, 1)
        assert torch.allclose(mean, denoiser(x, 1, lr), atol=1e-5)


def test_fewer_levels_are_taken_from_the_finest_on(networks: Networks) -> None:
    deep = unet_config(level_channels=(32, 64, 64), trained_resolution=32)
    denoiser = load_denoiser(denoiser_weights(deep))
    shallow = replace(deep, in_channels=9, out_channels=6, level_channels=(32, 64))
    predictor = NoisePredictor(shallow)
    copy_denoiser(denoiser, predictor)
    ours, theirs = predictor.state_dict(), denoiser.state_dict()
    key = "in_layers.2.weight"
    assert torch.equal(ours[f"output_blocks.0.0.{key}"], theirs[f"output_blocks.2.0.{key}"])
    assert torch.equal(ours[f"input_blocks.3.0.{key}"], theirs[f"input_blocks.3.0.{key}"])


def test_an_autoencoder_can_be_stripped_of_its_attention(networks: Networks) -> None:
    config = TrainConfig(
        task="autoencoder", steps=1, batch=1, crop=64, size={"attention": False},
        networks=Networks(init=networks.autoencoder), loss=LossWeights(l1=1),
    )  # fmt: skip
    assert not any("attn_1" in key for key in make_model(config).network.state_dict())


def test_an_autoencoder_can_be_given_other_norms(networks: Networks) -> None:
    given = load_autoencoder(networks.autoencoder)
    for groups in (1, 32):
        config = TrainConfig(
            task="autoencoder", steps=1, batch=1, crop=64, size={"norm_groups": groups},
            networks=Networks(init=networks.autoencoder), loss=LossWeights(l1=1),
        )  # fmt: skip
        network = make_model(config).network
        assert network.config == replace(given.config, norm_groups=groups)
        assert torch.equal(weights_of(network), weights_of(given))


def test_norms_can_be_fixed_to_their_statistics(networks: Networks, tmp_path: Path) -> None:
    """Norm layers can be replaced by fixed scales from the statistics of pictures. If these are the
    statistics of one picture, its result stays the same. The trainer uses many pictures."""
    given = load_autoencoder(networks.autoencoder)
    config = TrainConfig(
        task="autoencoder", steps=1, batch=1, crop=64, degradation=False,
        networks=Networks(init=networks.autoencoder), size={"norm_groups": 0},
        loss=LossWeights(l1=1),
    )  # fmt: skip
    model = make_model(config)
    fixed = model.network
    assert isinstance(fixed, Autoencoder)
    pictures = save_crops(tmp_path, count=4, step=(20, 10))
    trainer = Trainer(config, pictures, tmp_path / "out", cpu=True)
    x = trainer.crops[0]["hr"][None]
    fix_norms(given, fixed, [x])
    torch.testing.assert_close(fixed.encode(x), given.encode(x), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        fixed.decode(fixed.encode(x)), given.decode(given.encode(x)), atol=1e-4, rtol=1e-4
    )
    path = tmp_path / "fixed.safetensors"
    export_network(model, path, provenance={})
    with pytest.raises(ValueError, match="norm_groups is 32, expected 0, since fixed"):
        make_model(replace(config, networks=Networks(init=str(path)), size={"norm_groups": 32}))
    with pytest.raises(ValueError, match="would change the latents"):
        make_model(replace(config, task="decoder"))
    of_many = make_model(config).network
    assert isinstance(of_many, Autoencoder)
    fix_norms(given, of_many, [trainer.crops[i]["hr"][None] for i in range(FITTED_ON)])
    assert torch.equal(weights_of(trainer.task.network), weights_of(of_many))


def test_codes_can_begin_where_the_latents_are(networks: Networks, tmp_path: Path) -> None:
    config = TrainConfig(
        task="autoencoder", steps=1, batch=1, crop=64, degradation=False, fit_codes=True,
        networks=Networks(init=networks.autoencoder), loss=LossWeights(l1=1),
    )  # fmt: skip
    pictures = save_crops(tmp_path, count=4, step=(20, 10))
    before, after = (
        Trainer(replace(config, fit_codes=fit), pictures, tmp_path / str(fit), cpu=True)
        for fit in (False, True)
    )
    batch = default_collate([after.crops[FITTED_ON]])
    with torch.no_grad():
        errors = [t.task.validate(t.task.network, batch)[0]["code"] for t in (before, after)]
    assert errors[1] < errors[0] / 2


def test_few_latents_for_the_codes_are_an_error(networks: Networks) -> None:
    with pytest.raises(ValueError, match="16 latents for 64 codes, expected"):
        fit_codes(load_autoencoder(networks.autoencoder), [torch.zeros(1, 3, 16, 16)], 0)


def test_a_start_can_be_made_deeper_without_a_change_of_its_pictures() -> None:
    name = "lpnsr_lite_compact_x4.safetensors"
    config = TrainConfig(
        task="compact", steps=1, batch=1, crop=64, size={"num_conv": 24},
        networks=Networks(init=name), loss=LossWeights(l1=1),
    )  # fmt: skip
    shallow = make_model(replace(config, size={})).network
    deep = make_model(config).network
    x = torch.rand(1, 3, 16, 24)
    with torch.no_grad():
        torch.testing.assert_close(deep(x), shallow(x), atol=1e-4, rtol=1e-4)
    convolutions = [sum(isinstance(m, nn.Conv2d) for m in n.modules()) for n in (shallow, deep)]
    assert convolutions == [18, 26]


# Algorithm 1 of the LPNSR paper: training of the noise predictor


def make_task(config: TrainConfig, pictures: Path) -> tuple[NoisePredictorTask, dict[str, Tensor]]:
    task = NoisePredictorTask(config)
    crops = Crops(sorted(pictures.iterdir()), 64, 0, degraded=True, augment=True)
    batch = [crops[i] for i in range(2)]
    return task, {key: torch.stack([s[key] for s in batch]) for key in batch[0]}


def test_the_loss_is_that_of_the_chain_that_the_nodes_run(
    configs: dict[str, TrainConfig], pictures: Path
) -> None:
    config = replace(configs["noise_predictor"], loss=LossWeights(l1=1))
    task, batch = make_task(config, pictures)
    task.network.load_state_dict(predictor_weights(task.network.config))
    losses = task(batch)
    _, y0 = task.encode_latents(batch)
    x0 = sample(task.denoiser, task.network, Schedule(), y0, batch["lr"], noise=task.noise(batch))
    image = task.autoencoder.decode(x0)
    expected = nn.functional.l1_loss(image, batch["hr"])
    assert float(losses.terms["l1"]) == pytest.approx(float(expected), rel=1e-5)


def test_a_denoiser_of_fifteen_steps_brings_its_schedule_along(
    configs: dict[str, TrainConfig], pictures: Path, tmp_path: Path
) -> None:
    path = tmp_path / "fifteen.safetensors"
    header = UNET_HEADER | {"lpnsr.schedule": json.dumps(vars(RESSHIFT_15))}
    save_file(denoiser_weights(unet_config(trained_resolution=16)), path, header)

    config = configs["noise_predictor"]
    networks = replace(config.networks, denoiser=str(path))
    config = replace(config, networks=networks, loss=LossWeights(l1=1))
    task, batch = make_task(config, pictures)
    losses, (_, y0) = task(batch), task.encode_latents(batch)
    x0 = sample(
        task.denoiser,
        task.network,
        Schedule(**vars(RESSHIFT_15)),
        y0,
        batch["lr"],
        steps=15,
        predictor_on=dict.fromkeys(range(2, 16), True),
        noise=task.noise(batch),
    )
    expected = nn.functional.l1_loss(task.autoencoder.decode(x0), batch["hr"])
    assert float(losses.terms["l1"]) == pytest.approx(float(expected), rel=1e-5)
    exported = tmp_path / "predictor.safetensors"
    export_network(task.model, exported, provenance={})
    assert load_model(exported).schedule == RESSHIFT_15

    networks = replace(configs["denoiser"].networks, init=str(path))
    denoising = DenoiserTask(replace(configs["denoiser"], networks=networks))
    figures, _ = denoising.validate(denoising.network, batch)
    assert {f"latent_t{t}" for t in range(1, 16)} <= figures.keys()


def test_only_the_predictor_learns_and_every_step_of_the_chain_teaches_it(
    configs: dict[str, TrainConfig], pictures: Path
) -> None:
    config = replace(configs["noise_predictor"], loss=LossWeights(l1=1))
    task, batch = make_task(config, pictures)
    task.network.load_state_dict(predictor_weights(task.network.config))
    seen: dict[int, float] = {}
    real = type(task.network).forward

    def record(network: NoisePredictor, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = real(network, *inputs)
        t = int(inputs[3]) + 1
        mean.register_hook(lambda grad: seen.__setitem__(t, float(grad.abs().sum())))
        return mean, logvar

    task.network.forward = record.__get__(task.network)  # type: ignore[method-assign]
    sum(task(batch).terms.values()).backward()
    assert seen.keys() == {4, 3, 2}
    assert all(gradient > 0 for gradient in seen.values())
    assert all(p.grad is None for p in task.denoiser.parameters())
    assert all(p.grad is None for p in task.autoencoder.parameters())


def test_recomputing_activations_changes_no_gradient(
    configs: dict[str, TrainConfig], pictures: Path
) -> None:
    gradients: list[Tensor] = []
    for checkpointing in (False, True):
        config = replace(
            configs["noise_predictor"], checkpointing=checkpointing, loss=LossWeights(l1=1)
        )
        task, batch = make_task(config, pictures)
        task.network.load_state_dict(predictor_weights(task.network.config))
        sum(task(batch).terms.values()).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in task.network.parameters()]))
    assert gradients[0].any()
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-7)


def test_regression_on_the_optimal_noise_falls(
    configs: dict[str, TrainConfig], pictures: Path
) -> None:
    config = replace(configs["noise_predictor"], loss=LossWeights(noise=1))
    task, batch = make_task(config, pictures)
    optimizer = torch.optim.Adam(task.network.parameters(), 1e-3)
    history: list[float] = []
    for _ in range(15):
        loss = task(batch).terms["noise"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(float(loss))
    assert history[-1] < 0.8 * history[0]


# The trainer


@pytest.fixture(scope="module", params=TASKS)
def trained(
    request: pytest.FixtureRequest,
    configs: dict[str, TrainConfig],
    pictures: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, Path, Trainer, Tensor]:
    """A finished training: (task, output folder, trainer, initial weights)."""
    out = tmp_path_factory.mktemp("trained")
    trainer = Trainer(configs[request.param], pictures, out, cpu=True)
    start = weights_of(trainer.task.network).clone()
    trainer.run()
    return request.param, out, trainer, start


def test_a_training_that_stops_goes_on_bit_for_bit(
    trained: tuple[str, Path, Trainer, Tensor],
    configs: dict[str, TrainConfig],
    pictures: Path,
    tmp_path: Path,
) -> None:
    name, _, through, start = trained
    config = configs[name]
    Trainer(config, pictures, tmp_path / "stopped", cpu=True).run(stop_at=3)
    resumed = Trainer(config, pictures, tmp_path / "stopped", cpu=True)
    assert resumed.step == 3
    resumed.run()
    assert torch.equal(weights_of(through.task.network), weights_of(resumed.task.network))
    assert torch.equal(weights_of(through.ema.module), weights_of(resumed.ema.module))
    assert not torch.equal(start, weights_of(through.task.network))
    if through.judge is not None:
        assert resumed.judge is not None
        assert torch.equal(weights_of(through.judge), weights_of(resumed.judge))
        untrained = Trainer(config, pictures, tmp_path / "new", cpu=True).judge
        assert untrained is not None
        assert not torch.equal(weights_of(through.judge), weights_of(untrained))


def test_exported_weights_load_and_tell_where_they_come_from(
    trained: tuple[str, Path, Trainer, Tensor],
) -> None:
    name, out, trainer, _ = trained
    for file in ("best.safetensors", "last.safetensors"):
        loaded = LOADERS[name](out / file)
    with safe_open(out / "last.safetensors", "pt") as file:
        header = file.metadata()
    part = {"decoder": "autoencoder"}.get(name, name)
    assert (header["lpnsr.family"], header["lpnsr.part"]) == ("small", part)
    provenance = json.loads(header["lpnsr.provenance"])
    assert provenance["steps"] == 6
    assert provenance["pictures"] == 6
    assert provenance["config"]["batch"] == 2
    assert provenance["commit"]
    network = loaded.model if isinstance(loaded, ImageModelDescriptor) else loaded
    assert isinstance(network, nn.Module)
    expected = weights_of(trainer.ema.module).half().float()
    assert torch.equal(weights_of(network).float(), expected)
    if name != "compact":
        assert network.config == trainer.task.network.config


def test_a_training_lowers_its_validation_error(
    configs: dict[str, TrainConfig], pictures: Path, tmp_path: Path
) -> None:
    config = replace(
        configs["compact"], steps=40, validate_every=40, ema=0.5, learning_rate=3e-3,
        degradation=False, loss=LossWeights(l1=1),
    )  # fmt: skip
    trainer = Trainer(config, pictures, tmp_path, cpu=True)
    before = trainer.validate()["l1"]
    assert trainer.run()["l1"] < 0.99 * before
    events = EventAccumulator(str(tmp_path)).Reload()
    assert {"training/l1", "training/learning_rate", "validation/l1"} <= set(
        events.Tags()["scalars"]
    )
    assert [e.step for e in events.Scalars("training/l1")] == [10, 20, 30, 40]
    assert "lr, ours, hr/0" in events.Tags()["images"]


def test_other_settings_are_refused_in_the_same_folder(
    configs: dict[str, TrainConfig], pictures: Path, tmp_path: Path
) -> None:
    Trainer(configs["compact"], pictures, tmp_path, cpu=True).run(stop_at=3)
    other = replace(configs["compact"], learning_rate=1.0, loss=LossWeights(l1=2))
    with pytest.raises(ValueError, match=r"learning_rate is 1\.0, expected 0\.001; loss\.gan is 0"):
        Trainer(other, pictures, tmp_path, cpu=True)


def test_settings_that_teach_nothing_may_change_on_the_way(
    configs: dict[str, TrainConfig], pictures: Path, tmp_path: Path
) -> None:
    config = replace(configs["noise_predictor"], steps=4)
    through = Trainer(config, pictures, tmp_path / "through", cpu=True)
    through.run()
    out = tmp_path / "changed"
    Trainer(config, pictures, out, cpu=True).run(stop_at=2)
    changed = {"workers": 2, "save_every": 2, "validate_every": 6, "checkpointing": True}
    config = replace(config, **changed)
    assert Trainer(replace(config, compile=True), pictures, out, cpu=True).step == 2
    resumed = Trainer(config, pictures, out, cpu=True)
    resumed.run()
    assert torch.equal(weights_of(through.task.network), weights_of(resumed.task.network))
    assert json.loads((out / "config.json").read_text())["workers"] == 2


def test_settings_that_an_older_version_had_not_are_at_their_defaults(
    configs: dict[str, TrainConfig], pictures: Path, tmp_path: Path
) -> None:
    config = configs["compact"]
    Trainer(config, pictures, tmp_path, cpu=True).run(stop_at=3)
    settings = json.loads((tmp_path / "config.json").read_text())
    del settings["mild"], settings["networks"]["teacher"], settings["loss"]["features"]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert Trainer(config, pictures, tmp_path, cpu=True).step == 3
    with pytest.raises(ValueError, match=r"mild is 0\.5, expected 0\.0"):
        Trainer(replace(config, mild=0.5), pictures, tmp_path, cpu=True)


def test_a_state_without_its_settings_is_refused(
    configs: dict[str, TrainConfig], pictures: Path, tmp_path: Path
) -> None:
    Trainer(configs["compact"], pictures, tmp_path, cpu=True).run(stop_at=3)
    settings = tmp_path / "config.json"
    settings.write_text(settings.read_text()[:50])
    with pytest.raises(ValueError, match=r"config\.json can't be read.* give another --out"):
        Trainer(configs["compact"], pictures, tmp_path, cpu=True)
    settings.unlink()
    with pytest.raises(ValueError, match=r"config\.json can't be read.* give another --out"):
        Trainer(configs["compact"], pictures, tmp_path, cpu=True)


def test_a_save_that_fails_leaves_all_of_the_one_before(
    configs: dict[str, TrainConfig], pictures: Path, tmp_path: Path
) -> None:
    """If a save fails because the disk is full, the files of the previous save stay complete."""
    trainer = Trainer(configs["compact"], pictures, tmp_path, cpu=True)
    trainer.run(stop_at=3)
    before = {path: path.read_bytes() for path in tmp_path.glob("[cs]*")}
    for room in (10, 5000):  # config.json has about 1000 bytes, state.pt 100,000
        with limit_file_size(room), pytest.raises((OSError, RuntimeError)):
            trainer.save()
        assert {path: path.read_bytes() for path in tmp_path.glob("[cs]*")} == before


def test_what_is_saved_is_on_disk_before_it_replaces_what_was(
    configs: dict[str, TrainConfig],
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each file is synced before it replaces the old one. Then the directory is synced, before the
    next file is written."""
    trainer = Trainer(configs["compact"], pictures, tmp_path / "out", cpu=True)
    events: list[tuple[str, str, int]] = []
    fsync, move = os.fsync, os.replace

    def sync(file: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{file}"))
        events.append(("sync", path.name, 0 if path.is_dir() else path.stat().st_size))
        fsync(file)

    def record_move(source: Path, target: Path) -> None:
        events.append(("move", Path(source).name, Path(source).stat().st_size))
        move(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", record_move)
    trainer.save()
    expected: list[tuple[str, str, int]] = []
    for name in ("config.json", "state.pt"):
        size = (tmp_path / "out" / name).stat().st_size
        expected += [("sync", f"{name}.part", size), ("move", f"{name}.part", size)]
        expected.append(("sync", "out", 0))
    assert events == expected


def test_an_infinite_loss_stops_the_training_and_leaves_the_state(
    configs: dict[str, TrainConfig], pictures: Path, tmp_path: Path
) -> None:
    trainer = Trainer(configs["compact"], pictures, tmp_path, cpu=True)
    trainer.run(stop_at=3)
    saved = (tmp_path / "state.pt").read_bytes()
    with torch.no_grad():
        next(trainer.task.network.parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="at step 3"):
        trainer.run()
    assert (tmp_path / "state.pt").read_bytes() == saved


def test_niqe_can_pick_the_best(
    configs: dict[str, TrainConfig], pictures: Path, tmp_path: Path
) -> None:
    config = replace(configs["compact"], validation_niqe=True, validation_crop=256, best="niqe")
    trainer = Trainer(config, pictures, tmp_path, cpu=True)
    assert trainer.best == float("inf")
    assert trainer.run()["niqe"] >= trainer.best > 0


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("compact", {"best": "fid"}, "minus_psnr"),
        ("compact", {"loss": LossWeights(latent=1)}, "no loss latent"),
        ("compact", {"loss": LossWeights(gan=1)}, "loss.gan is the only loss"),
        ("denoiser", {"loss": LossWeights(latent=1, noise=1)}, "no loss noise"),
        ("denoiser", {"chain": 0.5}, "chain is 0.5, but the task 'denoiser' does not support"),
        ("compact", {"rollout": 0.5}, "rollout is 0.5"),
        ("noise_predictor", {"fit_codes": True}, "fit_codes is True"),
        ("denoiser", {"loss": LossWeights(latent=1, l1=1)}, "Set both or neither"),
        ("denoiser", {"validation_crop": 80}, "multiple of 64"),
        ("noise_predictor", {"crop": 96}, "multiple of 64"),
        ("noise_predictor", {"size": {"swin_width": 64}}, "swin_width"),
    ],
)
def test_what_a_task_has_not_is_refused_at_the_start(
    task: str, change: dict[str, Any], message: str,
    configs: dict[str, TrainConfig], pictures: Path, tmp_path: Path,
) -> None:  # fmt: skip
    config = replace(configs[task], **change)
    if "size" in change:
        networks = replace(config.networks, init=str(tmp_path / "predictor.safetensors"))
        save_file(
            predictor_weights(unet_config(9, 6, trained_resolution=16)),
            networks.init,
            UNET_HEADER | {"lpnsr.part": "noise_predictor"},
        )
        config = replace(config, networks=networks)
    with pytest.raises(ValueError, match=message):
        Trainer(config, pictures, tmp_path / "out", cpu=True)


@pytest.mark.parametrize(
    "name", [p.stem for p in sorted(SHIPPED.glob("*.toml")) if p.stem.startswith(("lite-", "gpu-"))]
)
def test_crops_of_the_lite_configs_fit_the_lite_networks(name: str) -> None:
    config = read_config(name)
    if config.networks.teacher:  # use a teacher that comes with the pack
        teacher = "lpnsr_lite_compact_x4.safetensors"
        config = replace(config, networks=replace(config.networks, teacher=teacher))
    TASKS[config.task](config)


def test_a_training_on_other_pictures_is_refused(
    configs: dict[str, TrainConfig], pictures: Path, tmp_path: Path
) -> None:
    more = tmp_path / "more"
    shutil.copytree(pictures, more)
    Trainer(configs["compact"], more, tmp_path / "out", cpu=True).run(stop_at=3)
    shutil.copy(more / "0.png", more / "8.png")
    with pytest.raises(ValueError, match="other pictures"):
        Trainer(configs["compact"], more, tmp_path / "out", cpu=True)


def test_worker_processes_prepare_the_same_pictures(
    configs: dict[str, TrainConfig], pictures: Path, tmp_path: Path
) -> None:
    trainers = [
        Trainer(replace(configs["compact"], workers=n), pictures, tmp_path / str(n), cpu=True)
        for n in (0, 1)
    ]
    for trainer in trainers:
        pickle.dumps(trainer.crops)  # some systems pickle the crops for workers
        trainer.run()
    assert torch.equal(*(weights_of(trainer.task.network) for trainer in trainers))


def test_autocast_changes_no_code(networks: Networks) -> None:
    autoencoder = load_autoencoder(networks.autoencoder)
    z = torch.randn(1, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        codes = autoencoder.quantize.codes(z)
    assert torch.equal(codes, autoencoder.quantize.codes(z))


def test_pictures_that_cannot_be_read_are_left_out(
    configs: dict[str, TrainConfig],
    pictures: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for path in pictures.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "bad.png").write_text("no picture")
    trainer = Trainer(configs["compact"], tmp_path, tmp_path / "out", cpu=True)
    assert len(trainer.crops) == 6
    assert "bad.png is left out" in caplog.text


def test_bf16_trains(configs: dict[str, TrainConfig], pictures: Path, tmp_path: Path) -> None:
    config = replace(configs["noise_predictor"], precision="bf16", steps=2, batch=1)
    trainer = Trainer(config, pictures, tmp_path, cpu=True)
    trainer.run()
    assert weights_of(trainer.task.network).isfinite().all()
    assert weights_of(trainer.task.network).dtype == torch.float32


def test_two_processes_train_as_one(
    configs: dict[str, TrainConfig], pictures: Path, tmp_path: Path
) -> None:
    """Training in two processes of torchrun gives the same weights as in one process, with an image
    loss, a noise loss and the discriminator."""
    config = tmp_path / "c.toml"
    networks = configs["noise_predictor"].networks
    config.write_text(
        'task = "noise_predictor"\nsteps = 2\nbatch = 2\ncrop = 64\nvalidation_crop = 64\n'
        "learning_rate = 1e-4\nvalidation_pictures = 2\n"
        f'[networks]\ninit = "{networks.denoiser}"\nautoencoder = "{networks.autoencoder}"\n'
        f'denoiser = "{networks.denoiser}"\n'
        "[loss]\nl1 = 1.0\ngan = 0.1\nnoise = 0.1\n"
        "[discriminator]\nlayers = 2\nstart_epoch = 1\nevery = 1\n"
    )
    arguments = ["train", str(config), "--data", str(pictures), "--cpu", "--out"]
    assert main([*arguments, str(tmp_path / "one")]) == 0
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "-m", "lpnsr_impl", *arguments, str(tmp_path / "two")],
        cwd=PACK, check=True, timeout=PATIENCE, capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    one, two = (
        torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("one", "two")
    )
    assert two["step"] == 2
    for part in ("network", "ema", "judge"):
        for key, value in one[part].items():
            other = two[part][key]
            assert torch.allclose(value, other, rtol=1e-3, atol=2e-5), f"{part} {key}"


# Command line


@pytest.mark.parametrize("name", TASKS)
def test_the_same_command_goes_on_with_a_training(
    name: str, configs: dict[str, TrainConfig], pictures: Path, tmp_path: Path
) -> None:
    shipped = {"noise_predictor": "lite-predictor", "autoencoder": "paper-autoencoder"}.get(
        name, f"lite-{name}"
    )
    config, out = configs[name], tmp_path / "out"
    settings = {
        "steps": 4, "batch": 1, "crop": 64, "validation_crop": 64, "validation_pictures": 1,
        "compile": "false", "discriminator.layers": 2, "validation_niqe": "false",
        "best": '"l1"', "precision": '"no"',
        "networks.init": f'"{config.networks.init if name == "decoder" else ""}"',
        "networks.autoencoder": f'"{config.networks.autoencoder}"',
        "networks.denoiser": f'"{config.networks.denoiser}"',
        "networks.noise_predictor": '""', "networks.start": '""', "networks.teacher": '""',
        "loss.lpips": 0.0, "loss.features": 0.0, "loss.truth": 0.0, "workers": 0, "chain": 0.0,
    }  # fmt: skip
    sizes = UNET_SIZE if name == "noise_predictor" else config.size
    settings |= {f"size.{k}": json.dumps(v) for k, v in sizes.items() if v is not None}
    command = ["train", shipped, "--data", str(pictures), "--out", str(out), "--cpu"]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    assert main([*command, "--stop-at", "2"]) == 0
    assert torch.load(out / "state.pt", weights_only=True)["step"] == 2
    assert main(command) == 0
    assert torch.load(out / "state.pt", weights_only=True)["step"] == 4
    assert LOADERS[name](out / "best.safetensors")


def test_errors_of_use_have_no_traceback(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "empty").mkdir()
    command = ["train", "lite-compact", "--data", str(tmp_path / "empty"), "--out", str(tmp_path)]
    assert main(command) == 1
    assert "has no pictures" in caplog.text


def test_the_degradation_can_be_looked_at(pictures: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    command = ["degrade", "--data", str(pictures), "--out", str(sheet)]
    assert main([*command, "--crop", "64", "--pictures", "3", "--draws", "4"]) == 0
    with Image.open(sheet) as file:
        assert file.width == 5 * 64
        first = np.asarray(file.convert("RGB"))
    assert main([*command, "--crop", "64", "--pictures", "3", "--draws", "4"]) == 0
    with Image.open(sheet) as file:
        assert np.array_equal(first, np.asarray(file.convert("RGB"))), "the seed is not honoured"
    assert main([*command, "--crop", "512"]) == 1
