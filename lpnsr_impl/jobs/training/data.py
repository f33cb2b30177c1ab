"""Crops of a folder of pictures, and their degraded LR. Sample `index` depends on the seed and on
`index` alone, so a resumed training goes on with just the samples it would have had."""

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
    """HR crops with their LR.

    A sample is {"hr": [3,s,s], "lr": [3,s/4,s/4]} in [-1,1], and int64 [] each "index", "crop" (the
    number of what was cut and degraded) and "turn" (how it was flipped and turned afterwards).

    Attributes:
        pictures: files.
        crop: s, a multiple of 4; smaller pictures are mirrored to it.
        seed: of all draws.
        degraded: degrade; else LR is the crop averaged 4x4.
        augment: crop, flip and turn at random; else the middle of each picture, upright.
        mild: probability of a mild degradation.
        reuse: times that a crop is used; one of that many samples is new, the others are drawn from
            all before, turned anew.
    """

    pictures: list[Path]
    crop: int
    seed: int
    degraded: bool
    augment: bool
    mild: float = 0.0
    reuse: int = 1
    _order: tuple[int, np.ndarray] | None = field(default=None, init=False)  # of the last epoch

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Sample:
        """Any index from 0 up; a pass over all pictures is an epoch."""
        crop, turn = index // self.reuse, 0
        if index % self.reuse:
            rng = np.random.default_rng([self.seed, index, 4])
            crop, turn = int(rng.integers(crop + 1)), int(rng.integers(8))
        epoch, position = divmod(crop, len(self.pictures))
        rng = np.random.default_rng([self.seed, crop])
        which = int(self._epoch_order(epoch)[position]) if self.augment else position
        hr = self._cut(read_picture(self.pictures[which]), rng)
        if self.degraded:
            lr = degrade(hr[None], draw(rng, self.mild))[0]
        else:
            lr = F.avg_pool2d(hr, SCALE)
        numbers = {"index": index, "crop": crop, "turn": turn}
        return {
            "hr": turned(to_pm1(hr), turn),
            "lr": turned(to_pm1(lr), turn),
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
        spare_y, spare_x = hr.shape[1] - s, hr.shape[2] - s
        if not self.augment:
            return hr[:, spare_y // 2 :, spare_x // 2 :][:, :s, :s].contiguous()
        y, x = int(rng.integers(spare_y + 1)), int(rng.integers(spare_x + 1))
        hr = hr[:, y : y + s, x : x + s]
        flip = rng.random() < 0.5
        return turned(hr, int(rng.integers(4)) + 4 * flip)


def turned(x: Tensor, turn: int) -> Tensor:
    """A square picture flipped if `turn` is 4 or more, then turned `turn` quarters. [C,s,s]"""
    return torch.rot90(x.flip(2) if turn >= 4 else x, turn % 4, (1, 2)).contiguous()


def turned_back(x: Tensor, turn: int) -> Tensor:
    """What `turned` made of it, undone. [C,s,s]"""
    x = torch.rot90(x, -turn % 4, (1, 2))
    return (x.flip(2) if turn >= 4 else x).contiguous()


def split_pictures(
    pictures: list[Path], validation: int, seed: int
) -> tuple[list[Path], list[Path]]:
    """Training and validation pictures. Of few pictures at most a quarter is for validation; with
    fewer than four, the one is both."""
    order = np.random.default_rng([seed, 2]).permutation(len(pictures))
    held_out = min(validation, len(pictures) // 4)
    kept = [pictures[i] for i in sorted(order[held_out:])]
    return kept, [pictures[i] for i in sorted(order[:held_out])] or kept[:1]


def batches(
    first_step: int, steps: int, batch: int, rank: int = 0, processes: int = 1
) -> Iterator[list[int]]:
    """Sample numbers of each step for one of several processes, which share out each batch."""
    share = batch // processes
    for step in range(first_step, steps):
        start = step * batch + rank * share
        yield list(range(start, start + share))
