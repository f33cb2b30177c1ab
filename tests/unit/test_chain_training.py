"""Training on results of the sampling chain: decoders, denoisers (with rollouts, i.e. runs of the
whole chain) and noise predictors."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from lpnsr_impl import load_autoencoder
from lpnsr_impl.files.folders import find_weights
from lpnsr_impl.jobs.training import trainer
from lpnsr_impl.jobs.training.config import Discriminator, LossWeights, Networks, TrainConfig
from lpnsr_impl.jobs.training.data import Crops
from lpnsr_impl.jobs.training.discriminator import discriminator_loss
from lpnsr_impl.jobs.training.random_inference import RandomInference
from lpnsr_impl.jobs.training.tasks.decoder import DecoderTask
from lpnsr_impl.jobs.training.tasks.denoiser import DenoiserTask
from lpnsr_impl.jobs.training.tasks.noise_predictor import NoisePredictorTask
from lpnsr_impl.jobs.training.teacher import Teacher
from lpnsr_impl.jobs.training.trainer import Trainer
from tests.small import (
    autoencoder_weights,
    denoiser_weights,
    predictor_weights,
    save_crops,
    unet_config,
)
from tests.unit.test_training import UNET_HEADER

pytestmark = pytest.mark.training

START = "lpnsr_lite_compact_x4.safetensors"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_crops(tmp_path_factory.mktemp("pictures"), 5, (9, 0))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Config for training a small decoder only on latents from the sampling chain."""
    folder = tmp_path_factory.mktemp("networks")
    save_file(autoencoder_weights(), folder / "a.safetensors")
    for name, weights, channels in (
        ("denoiser", denoiser_weights, (6, 3)), ("noise_predictor", predictor_weights, (9, 6))
    ):  # fmt: skip
        small, part = unet_config(*channels, trained_resolution=16), {"lpnsr.part": name}
        save_file(weights(small), folder / f"{name}.safetensors", UNET_HEADER | part)
    return TrainConfig(
        task="decoder", steps=4, batch=2, crop=64, validation_crop=64, validation_pictures=1,
        family="small", learning_rate=1e-3, reuse=2, chain=1.0, loss=LossWeights(l1=1),
        networks=Networks(
            init=str(folder / "a.safetensors"),
            denoiser=str(folder / "denoiser.safetensors"),
            noise_predictor=str(folder / "noise_predictor.safetensors"),
        ),
    )  # fmt: skip


def batch_of(pictures: Path, *indices: int, reuse: int = 1) -> dict[str, Tensor]:
    files = sorted(pictures.iterdir())
    crops = Crops(files, 64, 0, degraded=True, augment=True, reuse=reuse)
    samples = [crops[i] for i in indices]
    return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}


def test_encoder_and_codes_stay_and_the_decoder_learns(
    config: TrainConfig, pictures: Path, tmp_path: Path
) -> None:
    Trainer(config, pictures, tmp_path, cpu=True).run()
    before = load_autoencoder(config.networks.init).state_dict()
    after = load_autoencoder(tmp_path / "last.safetensors").state_dict()
    for key, value in after.items():
        fixed = key.startswith(("encoder.", "quant_conv.", "quantize."))
        rounded = before[key].half().float()
        assert torch.equal(value, rounded) == fixed, key


def test_it_is_taught_on_the_encoders_latents_or_on_the_chains(
    config: TrainConfig, pictures: Path
) -> None:
    config, batch = replace(config, reuse=1), batch_of(pictures, 0, 1)
    other = {**batch, "lr": -batch["lr"]}
    for chain, changes in ((0.0, False), (1.0, True)):
        task = DecoderTask(replace(config, chain=chain))
        with torch.no_grad():
            loss = task(batch).terms["l1"]
            round_trip = task.network.decode(task.network.encode(batch["hr"]))
            expected = F.l1_loss(round_trip, batch["hr"])
            assert torch.equal(task(batch).terms["l1"], loss)
            assert torch.equal(task(other).terms["l1"], loss) != changes
        assert torch.isclose(loss, expected, rtol=1e-5) != changes


def test_latents_are_made_once_for_each_crop_however_it_is_turned(
    config: TrainConfig, pictures: Path, tmp_path: Path
) -> None:
    config = replace(config, reuse=8)
    task = DecoderTask(config)
    task.folder = tmp_path
    batches = [batch_of(pictures, i, reuse=8) for i in range(8)]
    assert len({int(batch["turn"]) for batch in batches}) > 2
    with torch.no_grad():
        first = task(batches[0])
        task.denoiser = task.inference = None  # not needed, since the latents are cached
        for batch in batches[1:]:
            losses = task(batch)
            assert losses.fake is not None
            assert losses.real is not None
            assert torch.equal(losses.fake, first.fake)
            assert torch.equal(losses.real, batches[0]["hr"])
    assert [p.name for p in (tmp_path / "latents").iterdir()] == ["0000000.pt"]


def test_a_teachers_pictures_are_learnt_from_the_chains_latents_and_hr_from_the_encoders(
    config: TrainConfig, pictures: Path
) -> None:
    networks = replace(config.networks, teacher=START)
    loss = LossWeights(l1=1, truth=0.5)
    settings = replace(config, networks=networks, reuse=1, chain=0.5, loss=loss)
    task, batch = DecoderTask(settings), batch_of(pictures, *range(8))
    with torch.no_grad():
        losses = task(batch)
        taught = Teacher(find_weights(START))(batch["lr"])
    assert losses.real is not None
    by_teacher = [torch.allclose(a, b, atol=1e-5) for a, b in zip(losses.real, taught, strict=True)]
    by_hr = [torch.equal(a, b) for a, b in zip(losses.real, batch["hr"], strict=True)]
    assert by_hr == [not one for one in by_teacher]
    assert 1 <= sum(by_hr) <= 7
    assert losses.fake is not None
    truth = F.l1_loss(losses.fake, batch["hr"]) / 2
    assert torch.isclose(losses.terms["truth"], truth)


def test_it_goes_on_bit_for_bit(config: TrainConfig, pictures: Path, tmp_path: Path) -> None:
    through = Trainer(config, pictures, tmp_path / "through", cpu=True)
    through.run()
    Trainer(config, pictures, tmp_path / "stopped", cpu=True).run(stop_at=2)
    resumed = Trainer(config, pictures, tmp_path / "stopped", cpu=True)
    resumed.run()
    for key, value in through.task.network.state_dict().items():
        assert torch.equal(value, resumed.task.network.state_dict()[key])


def test_validation_is_of_the_chain_and_of_the_round_trip(
    config: TrainConfig, pictures: Path
) -> None:
    batch, figures = batch_of(pictures, 0), {}
    for chain in (0.0, 1.0):
        task = DecoderTask(replace(config, chain=chain))
        with torch.no_grad():
            figures[chain], image = task.validate(task.network, batch)
        error = float(F.l1_loss(image.clamp(-1, 1), batch["hr"]))
        assert figures[chain]["l1"] == pytest.approx(error)
    assert figures[0.0]["l1"] == figures[0.0]["round_trip_l1"]
    assert figures[1.0]["round_trip_l1"] == figures[0.0]["round_trip_l1"]
    assert figures[1.0]["l1"] != figures[0.0]["l1"]


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("init", "networks.init is empty"),
        ("denoiser", "Give networks.denoiser"),
    ],
)
def test_what_it_needs_is_said(config: TrainConfig, missing: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DecoderTask(replace(config, networks=replace(config.networks, **{missing: ""})))


# Denoisers with rollouts, and noise predictors


@pytest.fixture
def rollout(config: TrainConfig) -> TrainConfig:
    """Config for training a denoiser only on rollouts, i.e. on runs of the whole sampling chain."""
    files = config.networks
    networks = Networks(
        init=files.denoiser, autoencoder=files.init, noise_predictor=files.noise_predictor
    )
    losses = LossWeights(latent=1, l1=1)
    return replace(
        config, task="denoiser", networks=networks, chain=0.0, rollout=1.0, reuse=1, loss=losses
    )


def test_a_rollout_is_the_chain_that_the_nodes_run(
    rollout: TrainConfig,
    pictures: Path,
) -> None:
    task, batch = DenoiserTask(rollout), batch_of(pictures, 0, 1)
    runs = RandomInference(rollout.networks, task.autoencoder_model, task.model)
    with torch.no_grad():
        ends: list[Tensor] = []
        for i, index in enumerate(batch["index"]):
            rng = np.random.default_rng([rollout.seed, int(index), 8])
            ends.append(runs.run(task.network, batch["lr"][i : i + 1], rng))
        terms = task(batch).terms
    assert terms.keys() == {"l1"}
    picture = task.autoencoder.decode(torch.cat(ends))
    assert torch.isclose(terms["l1"], F.l1_loss(picture, batch["hr"]), rtol=1e-4)


def test_its_last_step_alone_learns(rollout: TrainConfig, pictures: Path) -> None:
    task, learning = DenoiserTask(rollout), dict[int, bool]()

    def watch(module: nn.Module, inputs: tuple[Tensor, int, Tensor], x0_pred: Tensor) -> None:
        learning[inputs[1]] = x0_pred.requires_grad

    task.network.register_forward_hook(watch)
    sum(task(batch_of(pictures, *range(6))).terms.values(), torch.zeros(())).backward()
    assert learning == {3: False, 2: False, 1: False, 0: True}
    assert all(p.grad is None for p in task.autoencoder.parameters())
    assert any(p.grad is not None and p.grad.any() for p in task.network.parameters())


def test_some_steps_are_rollouts_and_the_others_are_what_they_were(
    rollout: TrainConfig, pictures: Path
) -> None:
    plain = DenoiserTask(replace(rollout, rollout=0.0, loss=LossWeights(latent=1)))
    mixed = DenoiserTask(replace(rollout, rollout=0.5))
    ends: list[bool] = []
    for step in range(12):
        batch = batch_of(pictures, 2 * step, 2 * step + 1)
        with torch.no_grad():
            terms = mixed(batch).terms
            ends.append(terms.keys() == {"l1"})
            if not ends[-1]:
                assert terms.keys() == {"latent"}
                assert torch.equal(terms["latent"], plain(batch).terms["latent"])
    assert 3 <= sum(ends) <= 9


def test_a_rollout_learns_a_teachers_pictures(rollout: TrainConfig, pictures: Path) -> None:
    networks = replace(rollout.networks, teacher=START)
    task, batch = DenoiserTask(replace(rollout, networks=networks)), batch_of(pictures, 0, 1)
    with torch.no_grad():
        losses = task(batch)
    taught = Teacher(find_weights(START))(batch["lr"])
    assert losses.real is not None
    assert torch.allclose(losses.real, taught, atol=1e-5)


@pytest.mark.parametrize("change", [{"rollout": 0.0}, {"loss": LossWeights(latent=1)}])
def test_rollouts_and_image_losses_go_together(
    rollout: TrainConfig, change: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="Set both or neither"):
        DenoiserTask(replace(rollout, **change))


@pytest.mark.parametrize("features", [False, True])
def test_a_judge_learns_in_steps_that_have_pictures(
    features: bool,
    rollout: TrainConfig,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learnt: list[float] = []

    def loss_of(real: Tensor, fake: Tensor) -> Tensor:
        loss = discriminator_loss(real, fake)
        learnt.append(float(loss.detach()))
        return loss

    monkeypatch.setattr(trainer, "discriminator_loss", loss_of)
    losses = LossWeights(latent=1, l1=1, gan=0.1)
    judge = Discriminator(features, channels=8, layers=2, start_epoch=1, every=1)
    config = replace(rollout, rollout=0.5, loss=losses, discriminator=judge, steps=6, batch=1)
    Trainer(config, pictures, tmp_path, cpu=True).run()
    assert 0 < len(learnt) < config.steps


def test_a_predictor_learns_from_both_starts(
    config: TrainConfig,
    pictures: Path,
) -> None:
    files = config.networks
    networks = replace(files, init=files.noise_predictor, autoencoder=files.init, start=START)
    settings = replace(config, task="noise_predictor", networks=networks, reuse=1, chain=0.0)
    task, batch = NoisePredictorTask(settings), batch_of(pictures, *range(12))
    assert task.start is not None
    own, bicubic = task.start(batch["lr"]), super(NoisePredictorTask, task).upsample(batch)
    is_own = [
        torch.allclose(x, y, atol=1e-5) for x, y in zip(task.upsample(batch), own, strict=True)
    ]
    is_bicubic = [torch.equal(x, y) for x, y in zip(task.upsample(batch), bicubic, strict=True)]
    assert is_bicubic == [not one for one in is_own]
    assert 2 <= sum(is_own) <= 10


def test_features_alone_train_a_predictor_end_to_end(
    config: TrainConfig,
    pictures: Path,
) -> None:
    files = config.networks
    networks = replace(files, init=files.noise_predictor, autoencoder=files.init)
    settings = replace(
        config, task="noise_predictor", networks=networks, reuse=1, chain=0.0,
        loss=LossWeights(features=1),
    )  # fmt: skip
    terms = NoisePredictorTask(settings)(batch_of(pictures, 0)).terms
    assert terms.keys() == {"features"}
    assert terms["features"].requires_grad
