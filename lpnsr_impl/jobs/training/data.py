"""Datasets of HR crops and their degraded LR counterparts.

A sample depends only on the seed and its index, so a resumed training sees the same samples as an
uninterrupted one.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from ...config import SCALE
from ...pictures.images import reflect_pad, to_pm1
from ...pictures.reading import read_picture
from ..degradation import degrade, draw

Sample = dict[str, Tensor]


@dataclass(eq=False)
class Crops(Dataset[Sample]):
    """Dataset of HR crops and their LR counterparts.

    A sample is {"hr": [3,s,s], "lr": [3,s/4,s/4]} in [-1,1], with three int64 scalars: "index",
    "crop" (number of the degraded crop), and "turn" (how it was flipped and rotated after the
    degradation, see `apply_turn`).

    Attributes:
        pictures: image files.
        crop: side s of the crops, a multiple of 4. Smaller images are padded by reflection.
        seed: seed of all random choices.
        degraded: whether LR is degraded; if false, it is HR averaged over 4x4 blocks.
        augment: crop, flip and rotate at random; if false, take the centre of each image.
        mild: probability of a mild degradation.
        reuse: number of times each crop is used. Every `reuse`-th sample is a new crop. The others
            repeat a random one of the crops so far, flipped and rotated.
    """

    pictures: list[Path]
    crop: int
    seed: int
    degraded: bool
    augment: bool
    mild: float = 0.0
    reuse: int = 1
    # Cache for the most recent epoch: (epoch, permutation of the images).
    _order: tuple[int, np.ndarray] | None = field(default=None, init=False)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Sample:
        """Make the sample at an index. Indices beyond the length belong to later epochs."""
        crop, turn = index // self.reuse, 0
        if index % self.reuse:
            rng = np.random.default_rng([self.seed, index, 4])
            crop, turn = int(rng.integers(crop + 1)), int(rng.integers(8))
        epoch, position = divmod(crop, len(self.pictures))
        rng = np.random.default_rng([self.seed, crop])
        picture = int(self._epoch_order(epoch)[position]) if self.augment else position
        hr = self._cut(read_picture(self.pictures[picture]), rng)
        if self.degraded:
            lr = degrade(hr[None], draw(rng, self.mild))[0]
        else:
            lr = F.avg_pool2d(hr, SCALE)
        numbers = {"index": index, "crop": crop, "turn": turn}
        return {
            "hr": apply_turn(to_pm1(hr), turn),
            "lr": apply_turn(to_pm1(lr), turn),
            **{key: torch.tensor(number) for key, number in numbers.items()},
        }

    def _epoch_order(self, epoch: int) -> np.ndarray:
        if self._order is None or self._order[0] != epoch:
            rng = np.random.default_rng([self.seed, epoch, 1])
            self._order = epoch, rng.permutation(len(self.pictures))
        return self._order[1]

    def _cut(self, hr: Tensor, rng: np.random.Generator) -> Tensor:
        s = self.crop
        hr = reflect_pad(hr[None], max(s, hr.shape[1]), max(s, hr.shape[2]))[0]
        max_y, max_x = hr.shape[1] - s, hr.shape[2] - s
        if not self.augment:
            return hr[:, max_y // 2 :, max_x // 2 :][:, :s, :s].contiguous()
        y, x = int(rng.integers(max_y + 1)), int(rng.integers(max_x + 1))
        hr = hr[:, y : y + s, x : x + s]
        flip = rng.random() < 0.5
        return apply_turn(hr, int(rng.integers(4)) + 4 * flip)


def apply_turn(x: Tensor, turn: int) -> Tensor:
    """Flip a square image if `turn` is 4 or more, then rotate it by `turn % 4` times 90 degrees.

    x: [C,s,s] -> [C,s,s]
    """
    return torch.rot90(x.flip(2) if turn >= 4 else x, turn % 4, (1, 2)).contiguous()


def undo_turn(x: Tensor, turn: int) -> Tensor:
    """Invert `apply_turn`. x: [C,s,s] -> [C,s,s]"""
    x = torch.rot90(x, -turn % 4, (1, 2))
    return (x.flip(2) if turn >= 4 else x).contiguous()


def split_pictures(
    pictures: list[Path], validation: int, seed: int
) -> tuple[list[Path], list[Path]]:
    """Split images at random into training and validation images.

    At most a quarter of the images is for validation. If there are fewer than four images, one is
    used for both.
    """
    order = np.random.default_rng([seed, 2]).permutation(len(pictures))
    held_out = min(validation, len(pictures) // 4)
    kept = [pictures[i] for i in sorted(order[held_out:])]
    return kept, [pictures[i] for i in sorted(order[:held_out])] or kept[:1]


def batches(
    first_step: int, steps: int, batch: int, rank: int = 0, processes: int = 1
) -> Iterator[list[int]]:
    """Yield the sample indices of each training step for the process `rank`. All processes share
    each batch equally."""
    local_batch = batch // processes
    for step in range(first_step, steps):
        start = step * batch + rank * local_batch
        yield list(range(start, start + local_batch))
