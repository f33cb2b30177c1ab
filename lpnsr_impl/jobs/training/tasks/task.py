"""Base class of the training tasks, which compute losses and validation metrics from batches.

A batch is {"hr": [B,3,s,s], "lr": [B,3,s/4,s/4]} in [-1,1], with "index", "crop" and "turn" as
int64 [B] (see `Crops`). The noise of a sample depends only on the seed and its index.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....files.folders import find_weights
from ....method.noise import seeded_noise
from ....method.sampler import NoiseSource
from ....method.schedule import Schedule
from ....pictures.images import to_01
from ..config import TrainConfig
from ..data import Crops, Sample
from ..losses import ImageLoss
from ..networks import make_model
from ..teacher import Teacher

IMAGE_LOSSES = frozenset({"l1", "lpips", "features", "gan", "pyramid", "gradient", "truth"})
TASK_OPTIONS = frozenset({"fit_codes", "chain", "rollout"})
"""Settings that only some tasks support."""


@dataclass
class Losses:
    """Weighted losses by name, and the fake and real inputs of the discriminator."""

    terms: dict[str, Tensor]
    fake: Tensor | None = None
    real: Tensor | None = None


class Task(nn.Module, ABC):
    """Holds the trained network, the frozen networks and the losses.

    `forward` computes all losses of a step, so that data-parallel wrappers see one forward pass per
    backward pass.

    Attributes:
        model: descriptor of the trained network, with its part and schedule.
        network: the trained network.
        schedule: schedule that the network is trained with.
        gan_channels: input channels of the discriminator.
        accepts_teacher: whether a teacher's output can replace HR as the target.
        folder: folder for caches; None disables them.
        supported_losses: names of the losses that the task can compute.
        supported_options: names of the `TASK_OPTIONS` that the task supports.
        metrics: names of the metrics that `validate` returns.

    Raises:
        ValueError: the task does not support a setting, or a setting needs another one.
    """

    gan_channels = 3
    accepts_teacher = True
    folder: Path | None = None
    supported_losses: frozenset[str]
    supported_options: frozenset[str] = frozenset()
    metrics: tuple[str, ...] = ("l1", "minus_psnr")

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        enabled = {name for name, weight in vars(config.loss).items() if weight}
        if unsupported := enabled - self.supported_losses:
            raise ValueError(
                f"The task {config.task!r} has no loss {', '.join(sorted(unsupported))}. Set all "
                f"losses to 0.0 except {', '.join(sorted(self.supported_losses))}."
            )
        for name in sorted(TASK_OPTIONS - self.supported_options):
            if value := getattr(config, name):
                raise ValueError(
                    f"{name} is {value}, but the task {config.task!r} does not support this "
                    f"option. Remove {name} from the config."
                )
        if not any(weight for name, weight in vars(config.loss).items() if name != "gan"):
            raise ValueError("loss.gan is the only loss. Set another loss above 0.0, too.")
        teacher = config.networks.teacher
        if teacher and not self.accepts_teacher:
            raise ValueError(
                f"The task {config.task!r} uses no LR pictures that a teacher could upscale. "
                "Remove networks.teacher from the config."
            )
        if config.loss.truth and not teacher:
            raise ValueError(
                "loss.truth is only for training with a teacher. Give networks.teacher, or set "
                "loss.truth=0.0."
            )
        known = (*self.metrics, "niqe") if config.validation_niqe else self.metrics
        if config.best not in known:
            raise ValueError(f"best is {config.best!r}, expected one of {', '.join(known)}.")
        self.config = config
        self.model = make_model(config)
        self.network = self.model.network
        self.image_loss = ImageLoss(config.loss)
        self.has_image_losses = any(getattr(config.loss, name) for name in IMAGE_LOSSES)
        self.teacher = Teacher(find_weights(teacher)) if teacher else None
        self.schedule = Schedule(**vars(self.model.schedule))

    def prepare(self, crops: Crops) -> None:
        """Initialise weights from the training crops. Called before the first step, not on resume.

        The default does nothing.
        """

    @abstractmethod
    def forward(self, batch: Sample) -> Losses: ...

    def image_losses(self, image: Tensor, batch: Sample, target: Tensor | None = None) -> Losses:
        """Compute the image losses.

        Args:
            image: output of the networks, [B,3,s,s] in [-1,1].
            batch: the training batch; `loss.truth` uses its "hr".
            target: [B,3,s,s] in [-1,1]; None for `self.target(batch)`.
        """
        target = self.target(batch) if target is None else target
        terms = self.image_loss(image, target)
        if self.config.loss.truth:
            terms["truth"] = self.config.loss.truth * F.l1_loss(image, batch["hr"])
        return Losses(terms, fake=image, real=target)

    def target(self, batch: Sample) -> Tensor:
        """Training target: the teacher's output for LR, or HR without a teacher.

        The teacher's output is cached in `folder` if crops are used more than once.

        Returns:
            [B,3,s,s] in [-1,1].
        """
        if self.teacher is None:
            return batch["hr"]
        if self.folder is None or self.config.reuse == 1:
            return self.teacher(batch["lr"])
        return self.teacher.upscale_cached(batch, self.folder / "teacher")

    @abstractmethod
    def validate(self, network: nn.Module, batch: Sample) -> tuple[dict[str, float], Tensor]:
        """Measure a network, normally `self.network` with EMA weights.

        Returns:
            The metrics named in `metrics` (lower is better), and images [B,3,H,W] in [-1,1].
        """

    def noise(self, batch: Sample) -> NoiseSource:
        """Make a source of noise [B,C,h,w] that depends only on the seed and sample indices."""
        rngs = [np.random.default_rng([self.config.seed, int(i), 3]) for i in batch["index"]]
        steps = self.schedule.num_timesteps
        sources = [seeded_noise(int(rng.integers(2**63)), steps) for rng in rngs]
        return lambda kind, t, shape: torch.cat(
            [source(kind, t, torch.Size((1, *shape[1:]))) for source in sources]
        )


def measure(image: Tensor, hr: Tensor) -> dict[str, float]:
    """Compare images with HR, both [B,3,H,W] in [-1,1]: L1, and the negative mean PSNR in dB."""
    mse = (to_01(image) - to_01(hr)).square().mean(dim=(1, 2, 3))
    return {
        "l1": float(F.l1_loss(image.clamp(-1, 1), hr)),
        "minus_psnr": float((10 * torch.log10(mse)).mean()),
    }
