"""Tiling: applies networks to overlapping tiles of equal size, and blends the results.

Images are not padded before tiling. Tiles may extend beyond an image, and an index map assigns a
pixel of the image to each pixel of a tile. This covers tiling, padding to sizes that a network
accepts, the margin around an image, and images that wrap. All positions are in LR pixels, since
latent and LR image have the same size.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import WRAP_OVERLAP


@dataclass(frozen=True)
class Axis:
    """Tiles of equal size along one axis of an image.

    Attributes:
        size: size of the image, in LR pixels.
        tile: size of each tile.
        starts: position of the first pixel of each tile. Positions may be negative, and the last
            tile may end beyond `size`.
        wraps: whether the image is periodic. Otherwise its edge pixels are replicated.
    """

    size: int
    tile: int
    starts: tuple[int, ...]
    wraps: bool = False

    def sources(self, scale: int = 1) -> Tensor:
        """Index of the image pixel for each pixel of a tile, [tiles, tile * scale]."""
        first = scale * torch.tensor(self.starts)[:, None]
        position = first + torch.arange(self.tile * scale)
        size = self.size * scale
        return position % size if self.wraps else position.clamp(0, size - 1)

    def inside(self, i: int, scale: int = 1) -> list[tuple[slice, slice]]:
        """Pairs of slices, of tile i and of the image, that cover the same pixels.

        There is one pair, or several if the tile extends across an edge that wraps.
        """
        start, end = self.starts[i], self.starts[i] + self.tile
        periods = range(start // self.size, -(-end // self.size)) if self.wraps else (0,)
        runs: list[tuple[slice, slice]] = []
        for origin in (period * self.size for period in periods):
            first, last = max(start, origin), min(end, origin + self.size)
            of_tile = slice((first - start) * scale, (last - start) * scale)
            runs.append((of_tile, slice((first - origin) * scale, (last - origin) * scale)))
        return runs

    def weights(self, scale: int = 1) -> Tensor:
        """Blending weights of the tiles, [tiles, tile * scale]. They sum to 1 at every pixel.

        Weights increase as a squared sine from the edge of a tile to the end of the overlap with
        its neighbour.
        """
        starts = torch.tensor(self.starts, dtype=torch.float64)
        if self.wraps:
            gaps = torch.cat([starts, starts[:1] + self.size]).diff()
            before, after = self.tile - gaps.roll(1), self.tile - gaps
        else:
            beyond = torch.tensor([1e-9], dtype=torch.float64)  # no ramp without a neighbour
            shared = self.tile - starts.diff()
            before, after = torch.cat([beyond, shared]), torch.cat([shared, beyond])
        position = (torch.arange(self.tile * scale, dtype=torch.float64) + 0.5) / scale
        rise = torch.minimum(position / before[:, None], (self.tile - position) / after[:, None])
        ramps = torch.sin(rise.clamp(0, 1) * math.pi / 2) ** 2
        total = torch.zeros(self.size * scale, dtype=torch.float64)
        for i, ramp in enumerate(ramps):
            for of_tile, of_image in self.inside(i, scale):
                total[of_image] += ramp[of_tile]
        return (ramps / total[self.sources(scale)]).float()


def plan_axis(
    size: int,
    max_tile: int,
    overlap: int,
    *,
    multiple: int = 1,
    min_tile: int = 1,
    margin: int = 0,
    wraps: bool = False,
) -> Axis:
    """Cover an axis with the smallest possible number of equal tiles, each as small as possible.

    Args:
        size: size of the image, in LR pixels.
        max_tile: largest part of the image that one tile may cover.
        overlap: minimum overlap of neighbouring tiles in pixels, limited to half of `max_tile`.
        multiple: tile sizes are multiples of this.
        min_tile: minimum tile size.
        margin: number of pixels beyond each edge of the image that tiles also cover.
        wraps: see `Axis`. The last tile then also overlaps the first one across the edge.

    Raises:
        ValueError: a size is below 1, or the overlap or the margin is negative.
    """
    if min(size, max_tile, multiple, min_tile) < 1 or min(overlap, margin) < 0:
        raise ValueError(
            f"Got size {size}, max_tile {max_tile}, multiple {multiple}, min_tile {min_tile}, "
            f"overlap {overlap} and margin {margin}; expected 1 or more, the last two 0 or more."
        )
    overlap = min(overlap, max_tile // 2)
    if wraps:
        count = 1 if size <= max_tile else math.ceil(size / (max_tile - overlap))
        tile = math.ceil(size / count) + (overlap if count > 1 else WRAP_OVERLAP)
    else:
        count = 1
        if size > max_tile:
            count = math.ceil((size - overlap) / (max_tile - overlap))
        tile = math.ceil((size + 2 * margin + (count - 1) * overlap) / count)
    tile = max(math.ceil(tile / multiple) * multiple, min_tile)
    if wraps:
        starts = (i * size // count - (tile - math.ceil(size / count)) // 2 for i in range(count))
    elif count == 1:
        starts = ((size - tile) // 2,)
    else:
        # Positions differ by multiples of `multiple`, so that all tiles are aligned with the
        # strides of a network.
        steps = -(-(size + 2 * margin - tile) // multiple)
        first = -((tile + steps * multiple - size) // 2)
        starts = (first + i * steps // (count - 1) * multiple for i in range(count))
    return Axis(size, tile, tuple(starts), wraps)


@dataclass(frozen=True)
class TilePlan:
    """The tiles of an image, and the number of tiles in one network call.

    Attributes:
        rows, columns: the tiles along each axis.
        batch: number of tiles in one call. They may come from several images.
        fixed: whether the last batch is filled up, for kernels that are compiled for one shape.
    """

    rows: Axis
    columns: Axis
    batch: int = 1
    fixed: bool = False

    def __len__(self) -> int:
        """Number of tiles of one image."""
        return len(self.rows.starts) * len(self.columns.starts)

    def apply(
        self,
        function: Callable[..., Tensor],
        inputs: Sequence[Tensor],
        *,
        input_scale: int = 1,
        output_scale: int = 1,
        device: torch.device | None = None,
        output_device: torch.device | None = None,
        callback: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Apply a function tile by tile, and blend the results.

        Args:
            function: maps tensors [n,*,input_scale tile, input_scale tile] to one tensor
                [n,*,output_scale tile, output_scale tile].
            inputs: tensors [B,*,input_scale h, input_scale w].
            input_scale, output_scale: size of the inputs and of the result, relative to the LR
                image.
            device: device that the function runs on; None for the device of the inputs.
            output_device: device of the result; None for the device of the function's outputs.
            callback: called after each call of the function with the number of finished tiles and
                the number of all tiles.

        Returns:
            [B,*,output_scale h, output_scale w].
        """
        axes, num_images = (self.rows, self.columns), len(inputs[0])
        source_y, source_x = (
            axis.sources(input_scale).to(inputs[0].device, non_blocking=True) for axis in axes
        )
        weights_y, weights_x = (axis.weights(output_scale) for axis in axes)
        tiles = [
            (i, r, c)
            for i in range(num_images)
            for r in range(len(source_y))
            for c in range(len(source_x))
        ]
        result: Tensor | None = None
        for first in range(0, len(tiles), self.batch):
            batch = tiles[first : first + self.batch]
            full = batch + batch[-1:] * (self.batch - len(batch)) if self.fixed else batch
            cuts = (
                torch.stack([x[i][:, source_y[r][:, None], source_x[c]] for i, r, c in full])
                for x in inputs
            )
            parts = function(*(x.to(device, non_blocking=True) for x in cuts))
            parts = parts if output_device is None else parts.to(output_device)
            if result is None:
                size = (output_scale * axis.size for axis in axes)
                result = parts.new_zeros(num_images, parts.shape[1], *size)
                weights_y, weights_x = (
                    w.to(parts, non_blocking=True) for w in (weights_y, weights_x)
                )
            for (i, r, c), part in zip(batch, parts, strict=False):
                weights = weights_y[r][:, None] * weights_x[c]
                for part_y, y in self.rows.inside(r, output_scale):
                    for part_x, x in self.columns.inside(c, output_scale):
                        result[i, :, y, x].addcmul_(
                            part[:, part_y, part_x], weights[part_y, part_x]
                        )
            if callback:
                callback(first + len(batch), len(tiles))
        assert result is not None
        return result
