"""Tiles of a run: how large they may be, and what happens when they are too large after all."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..config import SCALE, UNetConfig, Wrap
from ..pictures.tiling import DEFAULT_OVERLAP, LARGEST_TILE, TilePlan, plan_tiles
from .memory import Managed, Memory
from .progress import Call, Progress

logger = logging.getLogger(__name__)

_MOST_POSITIONS = 1 << 18
"""Of latents in one call of a network, as 16 tiles of 128x128 have; more fill no GPU better."""

_FIXED_POSITIONS = LARGEST_TILE**2
"""The same where calls are filled up to one shape."""


@dataclass(frozen=True)
class Tiling:
    """What users wish, in LR pixels. `tile_size` 0 is automatic.

    Raises:
        ValueError: one of them is negative, since ComfyUI checks no linked number.
    """

    tile_size: int = 0
    overlap: int = DEFAULT_OVERLAP

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0:
                raise ValueError(f"{name} is {value}, expected 0 or more.")


@dataclass(frozen=True)
class Work:
    """What tiles are for.

    Attributes:
        networks: that run together.
        activations: bytes that a tile of h x w needs.
        pictures: how many there are.
        size: (h, w) of their LR pictures.
        config: of the denoiser, which says what sizes latents and tiles are multiples of.
        wrap: axes in which the pictures go on periodically.
        fixed: whether kernels are made for one shape.
        note: what else the plan says.
    """

    networks: Sequence[Managed[Any]]
    activations: Callable[[int, int], float]
    pictures: int
    size: tuple[int, int]
    config: UNetConfig
    wrap: Wrap = "none"
    fixed: bool = False
    note: str = ""


class Tiles:
    """Loads networks with room for one tile or some, and runs functions of a tile plan.

    Tiles are made as large as fits if all other models make room; they go through a network
    together as many as fit while the others stay.

    Args:
        work: what they are for.
        memory: to plan with.
        tiling: wishes.
        progress: told of the plan, and of every tile.

    Attributes:
        plan: the tiles; others once memory has run out.
        left: bytes of the networks' device beside what the tiles need.
    """

    def __init__(self, work: Work, memory: Memory, tiling: Tiling, progress: Progress) -> None:
        self._work = work
        self._memory = memory
        self._progress = progress
        self._size = work.config.padded(*work.size, work.wrap)
        self._multiple = work.config.size_multiple
        self._step = work.config.tile_multiple
        self._overlap = tiling.overlap
        self._budget = memory.budget(work.networks)
        tile = tiling.tile_size or self._automatic()
        self._use(self._plan(-(-tile // self._step) * self._step, chosen=tiling.tile_size > 0))

    def _automatic(self) -> int:
        """The largest tile that fits into memory, at most `LARGEST_TILE`."""
        h, w = self._size
        tile = max(self._step, LARGEST_TILE // self._step * self._step)
        needs = self._work.activations
        while tile > self._step and needs(min(tile, h), min(tile, w)) > self._budget:
            tile -= self._step
        return tile

    def _plan(self, tile: int, chosen: bool = False) -> TilePlan:
        """Tiles of a size that the user may have chosen: else at most half of one overlaps, since
        the number of tiles grows beyond all bounds where they hardly move on."""
        self._tile = tile
        overlap = min(self._overlap, tile - self._multiple if chosen else tile // 2)
        plan = plan_tiles(
            *self._size, tile, overlap, self._multiple, least=self._step, fixed=self._work.fixed
        )
        return replace(plan, batch=self._together(plan))

    def _together(self, plan: TilePlan) -> int:
        """Tiles that go through a network together."""
        work, (h, w) = self._work, plan.tile
        if work.networks[0].device.type == "cpu":
            return 1  # whose cores one tile keeps busy
        most = (_FIXED_POSITIONS if work.fixed else _MOST_POSITIONS) // (h * w)
        fit = self._memory.spare(work.networks) // work.activations(h, w)
        together = max(1, min(int(fit), most, work.pictures * len(plan)))
        return 1 << (together.bit_length() - 1) if work.fixed else together

    def _use(self, plan: TilePlan) -> None:
        self.plan = plan
        need = plan.batch * self._work.activations(*plan.tile)
        (h, w), (tile_h, tile_w) = self._work.size, plan.tile
        tiles = f"{len(plan)} tiles of {tile_w}x{tile_h}" if len(plan) > 1 else "1 tile"
        together = f", {plan.batch} at a time" if plan.batch > 1 else ""
        note = f", {self._work.note}" if self._work.note else ""
        self._progress.plan(
            f"{w}x{h} to {SCALE * w}x{SCALE * h}, {tiles}{together}, asks for "
            f"{need / 2**20:.0f} MB{note}"
        )
        self._memory.load(self._work.networks, need)
        self.left = self._budget - need

    def run(
        self,
        function: Callable[[slice, TilePlan, Callable[[], None]], Tensor],
        calls: Sequence[Call],
    ) -> Iterator[tuple[slice, Tensor]]:
        """function(pictures, plan, on_tile) for all pictures, some at a time; again with smaller
        tiles where memory runs out.

        Args:
            function: calls networks tile by tile, and `on_tile` after each.
            calls: of networks on whole pictures, in order.

        Yields:
            The pictures, and what the function gave for them.

        Raises:
            MemoryError: the smallest tile does not fit either.
        """
        first, count = 0, self._work.pictures
        while first < count:
            done = self._progress.done
            at_once = max(1, self.plan.batch // len(self.plan))
            pictures = slice(first, min(first + at_once, count))
            try:
                result = function(pictures, self.plan, self._count(calls, pictures))
            except (RuntimeError, MemoryError) as e:
                if not self._memory.is_out_of_memory(e):
                    raise
            else:
                first = pictures.stop
                yield pictures, result
                del result
                continue
            # Out here nothing holds the failed run's tensors any more.
            self._memory.empty_cache()
            self._progress.done = done
            self._use(self._smaller())

    def _count(self, calls: Sequence[Call], pictures: slice) -> Callable[[], None]:
        of_each = len(self.plan)
        first, count = pictures.start + 1, pictures.stop - pictures.start
        total = self._work.pictures
        tiles = count * of_each
        steps = iter([(call, i) for call in calls for i in range(1, tiles + 1)])
        some = f"pictures {first}-{pictures.stop}" if count > 1 else f"picture {first}"
        heading = f"{some}/{total}, " if total > 1 else ""

        def on_tile() -> None:
            call, i = next(steps)
            tile = f", tile {i}/{tiles}" if tiles > 1 else ""
            self._progress.advance(call.work / of_each, heading + call.text + tile)

        return on_tile

    def _smaller(self) -> TilePlan:
        """Fewer tiles together, or tiles of half the size, and half the overlap where that is more
        than half of one.

        Raises:
            MemoryError: they are the smallest already.
        """
        if self.plan.batch > 1:
            logger.warning("LPNSR: out of memory; going on with half as many tiles at a time.")
            return replace(self.plan, batch=self.plan.batch // 2)
        tile = min(self._tile, max(self.plan.size))  # a whole picture may be smaller
        if tile <= self._step:
            raise MemoryError(
                f"Out of memory even with tiles of {tile}x{tile} LR pixels, the smallest for "
                "these models. Close other programs, or choose a lower precision (bf16)."
            )
        tile = max(tile // 2 // self._step, 1) * self._step
        logger.warning("LPNSR: out of memory; going on with tiles of %d LR pixels.", tile)
        return replace(self._plan(tile), batch=1)
