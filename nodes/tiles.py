"""Tiles of a run: how large they may be, and what happens when they are too large after all."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..lpnsr_impl.tiling import DEFAULT_OVERLAP, LARGEST_TILE, TilePlan, plan_tiles
from . import host


@dataclass(frozen=True)
class Tiling:
    """What the widgets say, in LR pixels. `tile_size` 0 is automatic."""

    tile_size: int = 0
    overlap: int = DEFAULT_OVERLAP


class Tiles:
    """Loads networks with room for one tile, and runs functions of a tile plan.

    Args:
        managed: networks that run together.
        size: (h, w) of the padded latent.
        multiple: what sizes of tiles are multiples of.
        tiling: wishes.
        activations: bytes that a tile of h x w needs.
    """

    def __init__(
        self,
        managed: Sequence[host.Managed[Any]],
        size: tuple[int, int],
        multiple: int,
        tiling: Tiling,
        activations: Callable[[int, int], float],
    ) -> None:
        self._managed = managed
        self._size = size
        self._multiple = multiple
        self._overlap = tiling.overlap
        self._activations = activations
        tile = tiling.tile_size or self._automatic()
        self._use(-(-tile // multiple) * multiple)

    def _automatic(self) -> int:
        """The largest tile that fits into memory, at most `LARGEST_TILE`."""
        h, w = self._size
        budget = host.memory_budget(self._managed)
        tile = max(self._multiple, LARGEST_TILE // self._multiple * self._multiple)
        while tile > self._multiple and self._activations(min(tile, h), min(tile, w)) > budget:
            tile -= self._multiple
        return tile

    def _use(self, tile: int) -> None:
        overlap = min(self._overlap, tile - self._multiple)
        self.plan: TilePlan = plan_tiles(*self._size, tile, overlap, self._multiple)
        need = self._activations(*self.plan.tile)
        if len(self.plan) > 1:
            logging.info(
                "LPNSR: %dx%d LR pixels in %d tiles of %dx%d, asking for %.0f MB.",
                *reversed(self.plan.size),
                len(self.plan),
                *reversed(self.plan.tile),
                need / 2**20,
            )
        host.load(*self._managed, activations=need)

    def run(self, function: Callable[[TilePlan], Tensor]) -> Tensor:
        """function(plan), again with smaller tiles where memory runs out.

        Raises:
            MemoryError: the smallest tile does not fit either.
        """
        while True:
            try:
                return function(self.plan)
            except (RuntimeError, MemoryError) as e:
                if not host.is_out_of_memory(e):
                    raise
            # Out here nothing holds the failed run's tensors any more.
            host.free_memory()
            tile = max(self.plan.tile)
            if tile <= self._multiple:
                raise MemoryError(
                    f"Out of memory even with tiles of {tile}x{tile} LR pixels, the smallest for "
                    "these models. Close other programs, or choose bf16 in Load LPNSR Models."
                )
            logging.warning("LPNSR: out of memory; going on with tiles of half the size.")
            self._use(max(tile // 2 // self._multiple, 1) * self._multiple)
