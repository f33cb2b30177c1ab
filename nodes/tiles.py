"""Tiles of a run: how large they may be, and what happens when they are too large after all."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..lpnsr_impl.config import SCALE, UNetConfig, Wrap
from ..lpnsr_impl.pictures.tiling import DEFAULT_OVERLAP, LARGEST_TILE, TilePlan, plan_tiles
from . import host

_MOST_TOGETHER = 16
"""Tiles in one call of a network. More fill no GPU better."""


@dataclass(frozen=True)
class Tiling:
    """What the widgets say, in LR pixels. `tile_size` 0 is automatic.

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
class Call:
    """One call of a network on a whole picture: what the node says meanwhile, and its cost.

    work: in calls of the denoiser.
    """

    text: str
    work: float = 1.0


class Tiles:
    """Loads networks with room for one tile or some, and runs functions of a tile plan.

    Args:
        managed: networks that run together.
        size: (h, w) of the LR picture.
        config: of the denoiser, which says what sizes latents and tiles are multiples of.
        tiling: wishes.
        activations: bytes that a tile of h x w needs.
        progress: told of the plan, and of every tile.
        wrap: axes in which the picture goes on periodically.
        note: what else the plan says.
    """

    def __init__(
        self,
        managed: Sequence[host.Managed[Any]],
        size: tuple[int, int],
        config: UNetConfig,
        tiling: Tiling,
        activations: Callable[[int, int], float],
        progress: host.Progress,
        wrap: Wrap = "none",
        note: str = "",
    ) -> None:
        self._note = f", {note}" if note else ""
        self._managed = managed
        self._picture = size
        self._size = config.padded(*size, wrap)
        self._multiple = config.size_multiple
        self._step = config.tile_multiple
        self._overlap = tiling.overlap
        self._activations = activations
        self._progress = progress
        self._budget = host.memory_budget(managed)
        tile = tiling.tile_size or self._automatic()
        self._use(self._plan(-(-tile // self._step) * self._step, chosen=tiling.tile_size > 0))

    def _automatic(self) -> int:
        """The largest tile that fits into memory, at most `LARGEST_TILE`."""
        h, w = self._size
        tile = max(self._step, LARGEST_TILE // self._step * self._step)
        while tile > self._step and self._activations(min(tile, h), min(tile, w)) > self._budget:
            tile -= self._step
        return tile

    def _plan(self, tile: int, chosen: bool = False) -> TilePlan:
        """Tiles of a size that the user may have chosen: else at most half of one overlaps, since
        the number of tiles grows beyond all bounds where they hardly move on."""
        self._tile = tile
        overlap = min(self._overlap, tile - self._multiple if chosen else tile // 2)
        plan = plan_tiles(*self._size, tile, overlap, self._multiple, least=self._step)
        if self._managed[0].device.type == "cpu":
            return plan  # whose cores one tile keeps busy
        fit = int(self._budget // self._activations(*plan.tile))
        return replace(plan, batch=max(1, min(fit, len(plan), _MOST_TOGETHER)))

    def _use(self, plan: TilePlan) -> None:
        self.plan = plan
        need = plan.batch * self._activations(*plan.tile)
        h, w = self._picture
        tiles = f"{len(plan)} tiles of {plan.tile[1]}x{plan.tile[0]}" if len(plan) > 1 else "1 tile"
        together = f", {plan.batch} at a time" if plan.batch > 1 else ""
        self._progress.plan = (
            f"{w}x{h} to {SCALE * w}x{SCALE * h}, {tiles}{together}, asks for {need / 2**20:.0f} MB"
            f"{self._note}"
        )
        self._progress.say("loading")
        logging.info("LPNSR: %s.", self._progress.plan)
        host.load(*self._managed, activations=need)

    def run(
        self, function: Callable[[TilePlan, Callable[[], None]], Tensor], calls: Sequence[Call]
    ) -> Tensor:
        """function(plan, on_tile), again with smaller tiles where memory runs out.

        Args:
            function: calls networks tile by tile, and `on_tile` after each.
            calls: of networks on the whole picture, in order.

        Raises:
            MemoryError: the smallest tile does not fit either.
        """
        done = self._progress.done
        while True:
            try:
                return function(self.plan, self._count(calls))
            except (RuntimeError, MemoryError) as e:
                if not host.is_out_of_memory(e):
                    raise
            # Out here nothing holds the failed run's tensors any more.
            host.free_memory()
            self._progress.done = done
            self._use(self._smaller())

    def _count(self, calls: Sequence[Call]) -> Callable[[], None]:
        tiles = len(self.plan)
        steps = iter([(call, i) for call in calls for i in range(1, tiles + 1)])

        def on_tile() -> None:
            call, i = next(steps)
            tile = f", tile {i}/{tiles}" if tiles > 1 else ""
            self._progress.advance(call.work / tiles, call.text + tile)

        return on_tile

    def _smaller(self) -> TilePlan:
        """Fewer tiles together, or tiles of half the size.

        Raises:
            MemoryError: they are the smallest already.
        """
        if self.plan.batch > 1:
            logging.warning("LPNSR: out of memory; going on with half as many tiles at a time.")
            return replace(self.plan, batch=self.plan.batch // 2)
        tile = min(self._tile, max(self.plan.size))  # a whole picture may be smaller
        if tile <= self._step:
            raise MemoryError(
                f"Out of memory even with tiles of {tile}x{tile} LR pixels, the smallest for "
                "these models. Close other programs, or choose bf16 in Load LPNSR Models."
            )
        logging.warning("LPNSR: out of memory; going on with tiles of half the size.")
        return replace(self._plan(max(tile // 2 // self._step, 1) * self._step), batch=1)
