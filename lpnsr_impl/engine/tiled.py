"""Chooses tile sizes that fit into memory, and retries with smaller tiles when memory runs out."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..config import LARGEST_TILE, SCALE, wraps
from ..main_memory import give_back
from ..pictures.picture import Picture
from .memory import Managed, Memory, activation_bytes
from .progress import Progress
from .tile_plan import TilePlan, plan_axis

logger = logging.getLogger(__name__)

DEFAULT_OVERLAP = 32
"""Default overlap of neighbouring tiles, in LR pixels."""

MARGIN = 4
"""LR pixels by which tiles extend beyond the edges of an image. Otherwise the zero padding of
convolutions causes spots in the corners and rims along the edges."""

_MAX_POSITIONS = 1 << 18
"""Maximum number of latent positions in one network call, the number of 16 tiles of 128x128. More
would not keep a GPU busier."""

_MAX_POSITIONS_CPU = 64**2
"""Maximum number of latent positions in one network call on a CPU. A single tile of this size uses
all cores."""


@dataclass(frozen=True)
class Tiling:
    """Tile sizes that the user has set, in LR pixels.

    Attributes:
        tile_size: size of each tile; 0 chooses the largest that fits into memory.
        overlap: minimum overlap of neighbouring tiles, limited to half a tile.
        max_tile: largest tile size that is chosen if `tile_size` is 0.

    Raises:
        ValueError: one of them is negative.
    """

    tile_size: int = 0
    overlap: int = DEFAULT_OVERLAP
    max_tile: int = LARGEST_TILE

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0:
                raise ValueError(f"{name} is {value}, expected 0 or more.")


class Tiles:
    """Runs networks on images of one size, in tiles that fit into memory.

    The tile size is the largest that fits into memory with all other models evicted. One call
    processes as many tiles as fit without evicting any model. When memory runs out, the call is
    retried with fewer tiles at a time, and then with smaller tiles.

    Args:
        networks: networks that are loaded together, on one device.
        lr: the B LR images, h x w.
        memory: memory of the networks' device and of results.
        tiling: tile sizes that the user has set.
        progress: receives the tile plan, and an update after every network call.
        encoding: whether images are encoded, which needs less memory than decoding.

    Attributes:
        plan: the current tile plan. It changes when memory runs out.
        output_device: device on which the tiles of images larger than the LR images are joined. It
            is the device of results unless `place_output` chooses the networks' device.
    """

    def __init__(
        self,
        networks: Sequence[Managed[Any]],
        lr: Picture,
        memory: Memory,
        tiling: Tiling,
        progress: Progress,
        encoding: bool = False,
    ) -> None:
        self._networks, self._shape, self._wraps = networks, lr.size, wraps(lr.wrap)
        self._memory, self._tiling, self._progress = memory, tiling, progress
        self._device, self.output_device = networks[0].device, memory.result_device
        self._encoding, self._heading = encoding, ""
        configs = [managed.network.config for managed in networks]
        self._multiple = max(config.size_multiple for config in configs)
        self._min_tile = max(config.tile_multiple for config in configs)
        self._max_tile = min(tiling.max_tile, *(config.largest_tile for config in configs))
        self._fixed = any(managed.network.compiled for managed in networks)
        self._use(self._choose_tile())

    def groups(self, first: int = 0, last: int | None = None) -> Iterator[slice]:
        """Load the networks, and yield groups of images that fit into one network call.

        Progress updates name the current images.

        Args:
            first: index of the first image.
            last: index after the last image; None for all images.
        """
        self._load()
        count = self._shape[0]
        last = count if last is None else last
        while first < last:
            end = min(first + max(1, self.plan.batch // len(self.plan)), last)
            if count > 1:
                which = f"image {end}" if end - first == 1 else f"images {first + 1}-{end}"
                self._heading = f"{which}/{count}, "
            yield slice(first, end)
            first = end
        give_back(self._device)

    def __call__(
        self,
        function: Callable[..., Tensor],
        *inputs: Tensor,
        text: str,
        work: float = 1.0,
        input_scale: int = 1,
        output_scale: int = 1,
    ) -> Tensor:
        """Apply a function that calls the networks to images, tile by tile.

        Args:
            function, inputs, input_scale, output_scale: see `TilePlan.apply`.
            text: description of the work for progress updates.
            work: cost per image, in calls of the denoiser.

        Returns:
            [B,*,output_scale h, output_scale w], on the networks' device, or on `output_device` if
            output_scale is above 1.

        Raises:
            MemoryError: even a single tile of the smallest size does not fit into memory.
        """
        done = self._progress.done

        def report(num_done: int, num_tiles: int) -> None:
            tile = f", tile {num_done}/{num_tiles}" if num_tiles > 1 else ""
            self._progress.done = done
            share = num_done / num_tiles
            self._progress.advance(share * work * len(inputs[0]), self._heading + text + tile)

        while True:
            try:
                return self.plan.apply(
                    function,
                    inputs,
                    input_scale=input_scale,
                    output_scale=output_scale,
                    device=self._device,
                    output_device=self.output_device if output_scale > 1 else None,
                    callback=report,
                )
            except (RuntimeError, MemoryError) as error:
                if not self._memory.is_out_of_memory(error):
                    raise
            # Retry outside `except`, so that the traceback does not keep tensors alive.
            self._memory.empty_cache()
            self._use_less()

    def place_output(self, bytes_per_image: float) -> None:
        """Choose the networks' device as `output_device` if its free memory suffices.

        Args:
            bytes_per_image: bytes that one output image and its further processing need.
        """
        images = max(1, self.plan.batch // len(self.plan))
        free = self._memory.free(self._networks) - self._tile_bytes * self.plan.batch
        # On MPS, PyTorch before 2.8 has no antialiased bicubic, and memory is shared anyway.
        if self._device.type != "mps" and images * bytes_per_image <= free:
            self.output_device = self._device

    def _choose_tile(self) -> int:
        """Return the tile size that the user has set, or the largest that fits into memory."""
        if self._tiling.tile_size:
            return self._round_up(self._tiling.tile_size)
        largest = self._max_tile if self._fixed else min(self._max_tile, max(self._shape[1:]))
        tile = self._round_up(largest)
        available = self._memory.available(self._networks)
        while tile > self._min_tile and self._bytes_for(self._plan(tile)) > available:
            tile -= self._min_tile
        return tile

    def _round_up(self, tile: int) -> int:
        return max(1, -(-tile // self._min_tile)) * self._min_tile

    def _plan(self, tile: int) -> TilePlan:
        # A compiled network is recompiled for each input shape, so few tile sizes are used.
        multiple = self._round_up(tile // 2) if self._fixed else self._multiple
        rows, columns = (
            plan_axis(
                size,
                self._covered(tile),
                self._tiling.overlap,
                multiple=multiple,
                min_tile=self._min_tile,
                margin=MARGIN,
                wraps=wraps,
            )
            for size, wraps in zip(self._shape[1:], self._wraps, strict=True)
        )
        return TilePlan(rows, columns, fixed=self._fixed)

    def _covered(self, tile: int) -> int:
        """Return how many LR pixels of the image a tile covers along an axis."""
        return max(tile - 2 * MARGIN, 1) if self._fixed else tile

    def _bytes_for(self, plan: TilePlan) -> float:
        """Return the bytes that the networks need for the activations of one tile."""
        h, w = plan.rows.tile, plan.columns.tile
        return max(
            activation_bytes(managed.network, h, w, self._device, self._encoding)
            for managed in self._networks
        )

    def _use(self, tile: int, batch: int | None = None) -> None:
        """Plan tiles of a size, with `batch` or as many as fit into memory in one network call."""
        self._tile, plan = tile, self._plan(tile)
        self._tile_bytes = self._bytes_for(plan)
        self.plan = plan = replace(plan, batch=batch or self._choose_batch(plan))
        _, h, w = self._shape
        tiles = f"{len(plan)} tiles of {plan.columns.tile}x{plan.rows.tile}"
        if self._tiling.overlap > (max_overlap := self._covered(tile) // 2):
            tiles += f", overlap {max_overlap}"
        memory = f"{plan.batch * self._tile_bytes / 2**20:.0f} MB"
        summary = f"{tiles if len(plan) > 1 else '1 tile'}, {memory}"
        details = [f"{w}x{h} to {SCALE * w}x{SCALE * h}", summary]
        details += [f"{plan.batch} at a time"] * (plan.batch > 1)
        self._progress.plan(summary, ", ".join(details))

    def _choose_batch(self, plan: TilePlan) -> int:
        """Return the number of tiles that fit into memory without evicting other models."""
        most = _MAX_POSITIONS_CPU if self._device.type == "cpu" else _MAX_POSITIONS
        if self._fixed:
            most = min(most, LARGEST_TILE**2)
        most //= plan.rows.tile * plan.columns.tile
        fit = self._memory.free(self._networks) // max(self._tile_bytes, 1)
        batch = max(1, min(int(fit), most, self._shape[0] * len(plan)))
        return 1 << (batch.bit_length() - 1) if self._fixed else batch

    def _load(self) -> None:
        self._memory.load(self._networks, self.plan.batch * self._tile_bytes)

    def _use_less(self) -> None:
        """Reduce memory use by one step, and load the networks again.

        The first possible of these steps is taken: join tiles on the device of results, halve the
        number of tiles per call, or halve the tile size.

        Raises:
            MemoryError: the tiles already have the smallest size.
        """
        if self.output_device != self._memory.result_device:
            self.output_device = self._memory.result_device
            logger.warning("LPNSR: out of memory; the result goes to %s.", self.output_device)
        elif self.plan.batch > 1:
            logger.warning("LPNSR: out of memory; %d tiles at a time now.", self.plan.batch // 2)
            self._use(self._tile, self.plan.batch // 2)
        elif self._tile > self._min_tile:
            tile = self._round_up(min(self._tile, max(self._shape[1:])) // 2)
            tile = min(tile, self._tile - self._min_tile)
            logger.warning("LPNSR: out of memory; tiles of %d LR pixels now.", tile)
            self._use(tile, batch=1)
        else:
            raise MemoryError(
                f"Out of memory even with tiles of {self._tile} LR pixels, the smallest for these "
                "models. Close other programs, or choose a lower precision (bf16)."
            )
        self._load()
