"""What each training computes: a loss from a batch, and figures for validation.

A batch is {"hr": [B,3,s,s], "lr": [B,3,s/4,s/4]} in [-1,1] and int64 [B] each "index", "crop" and
"turn" (see `Crops`); all noise of a sample is drawn from the seed and its index.
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
OPTIONS = frozenset({"fit_codes", "chain", "rollout"})
"""Settings that only some tasks have."""


@dataclass
class Losses:
    """Weighted losses by name, and what the discriminator judges."""

    terms: dict[str, Tensor]
    fake: Tensor | None = None
    real: Tensor | None = None


class Task(nn.Module, ABC):
    """Network in training, frozen networks and losses.

    `forward` is one step, so that data-parallel wrappers see one forward for each backward.

    Attributes:
        model: the network in training, with its part and schedule.
        network: the same without them.
        schedule: what it is trained with.
        gan_channels: channels of what the discriminator judges.
        taught: whether a teacher's pictures can stand for HR.
        folder: where it may keep what is costly to make again, or None.

    Raises:
        ValueError: the settings ask for what the task has not.
    """

    gan_channels = 3
    taught = True
    folder: Path | None = None
    uses: frozenset[str]  # names of the losses it has
    options: frozenset[str] = frozenset()  # of `OPTIONS`, those it has
    figures: tuple[str, ...] = ("l1", "minus_psnr")  # what `validate` gives

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        unused = {name for name, weight in vars(config.loss).items() if weight} - self.uses
        if unused:
            raise ValueError(
                f"The task {config.task!r} has no loss {', '.join(sorted(unused))}; it has "
                f"{', '.join(sorted(self.uses))}. Set the others to 0.0."
            )
        for name in sorted(OPTIONS - self.options):
            if value := getattr(config, name):
                raise ValueError(
                    f"{name} is {value}, and the task {config.task!r} has no such option; leave "
                    "it out."
                )
        if not any(weight for name, weight in vars(config.loss).items() if name != "gan"):
            raise ValueError("loss.gan needs another loss beside it.")
        teacher = config.networks.teacher
        if teacher and not self.taught:
            raise ValueError(f"The task {config.task!r} has no LR pictures for networks.teacher.")
        if config.loss.truth and not teacher:
            raise ValueError("loss.truth stands beside a teacher's losses; give networks.teacher.")
        known = (*self.figures, "niqe") if config.validation_niqe else self.figures
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
        """What a new training needs of its pictures before the first step."""

    @abstractmethod
    def forward(self, batch: Sample) -> Losses: ...

    def image_losses(self, image: Tensor, batch: Sample, target: Tensor | None = None) -> Losses:
        """Losses of pictures, [B,3,s,s] in [-1,1].

        Args:
            image: they are of this.
            batch: with "hr", for the truth.
            target: what it is compared with; None is the teacher's picture, or HR without one.
        """
        target = self.target(batch) if target is None else target
        terms = self.image_loss(image, target)
        if self.config.loss.truth:
            terms["truth"] = self.config.loss.truth * F.l1_loss(image, batch["hr"])
        return Losses(terms, fake=image, real=target)

    def target(self, batch: Sample) -> Tensor:
        """The teacher's pictures of LR, kept in `folder` where crops are used more than once; HR
        without a teacher. [B,3,s,s] in [-1,1]"""
        if self.teacher is None:
            return batch["hr"]
        if self.folder is None or self.config.reuse == 1:
            return self.teacher(batch["lr"])
        return self.teacher.remember(batch, self.folder / "teacher")

    @abstractmethod
    def validate(self, network: nn.Module, batch: Sample) -> tuple[dict[str, float], Tensor]:
        """Figures of `network` (the averaged weights), lower being better, and its pictures
        [B,3,H,W] in [-1,1]."""

    def noise(self, batch: Sample) -> NoiseSource:
        """The noise of each sample, [B,C,h,w]."""
        rngs = [np.random.default_rng([self.config.seed, int(i), 3]) for i in batch["index"]]
        steps = self.schedule.num_timesteps
        sources = [seeded_noise(int(rng.integers(2**63)), steps) for rng in rngs]
        return lambda kind, t, shape: torch.cat(
            [source(kind, t, torch.Size((1, *shape[1:]))) for source in sources]
        )


def figures_of(image: Tensor, hr: Tensor) -> dict[str, float]:
    """L1 in [-1,1], and minus PSNR in dB over all channels of each picture."""
    mse = (to_01(image) - to_01(hr)).square().mean(dim=(1, 2, 3))
    return {
        "l1": float(F.l1_loss(image.clamp(-1, 1), hr)),
        "minus_psnr": float((10 * torch.log10(mse)).mean()),
    }
