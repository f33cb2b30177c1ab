"""Large pictures in bounded memory: a network applied to overlapping tiles, results blended.

Tiles are planned on the latent, so encoder, U-Net and decoder can share a plan.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .images import padded_size, reflect_pad

LARGEST_TILE = 256
"""In LR pixels. As published: larger pictures go in tiles even where they fit, since attention
over a whole picture costs its square."""

DEFAULT_OVERLAP = 32
"""In LR pixels."""


@dataclass(frozen=True)
class TilePlan:
    """Equal tiles that cover a latent.

    Attributes:
        size: (h, w) of the latent.
        tile: (h, w) of each tile; larger than the latent only where it is `fixed`.
        rows, columns: first row and column of the tiles.
        batch: tiles, of one picture or several, that go through a network together.
        fixed: every call has exactly this tile and batch, filled up where there is less: for
            kernels that are made for one shape.
    """

    size: tuple[int, int]
    tile: tuple[int, int]
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    batch: int = 1
    fixed: bool = False
    _weights: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def places(self, pictures: int) -> list[tuple[int, int, int]]:
        """(picture, row, column) of every tile, picture by picture."""
        return [(i, y, x) for i in range(pictures) for y in self.rows for x in self.columns]

    def weight(self, row: int, column: int, scale: int, like: Tensor) -> Tensor:
        """Of the tile that starts there, [tile scale, tile scale]; made once for device and dtype.

        At every position those of all tiles sum to 1.
        """
        key = scale, like.device, like.dtype
        if key not in self._weights:
            axes = zip((self.rows, self.columns), self.tile, self.size, strict=True)
            self._weights[key] = [
                {
                    start: w.to(like, non_blocking=like.is_cuda)
                    for start, w in _weights(starts, tile, size, scale).items()
                }
                for starts, tile, size in axes
            ]
        of_rows, of_columns = self._weights[key]
        return of_rows[row][:, None] * of_columns[column]


def plan_tiles(
    h: int,
    w: int,
    tile: int,
    overlap: int,
    multiple: int,
    batch: int = 1,
    least: int = 0,
    fixed: bool = False,
) -> TilePlan:
    """Cover h x w with the fewest equal tiles, shifted inside rather than cut, with at least this
    overlap; they are no larger than that many need to be.

    Args:
        h, w: of the latent, multiples of `multiple`.
        tile: largest side of a tile, a multiple of `multiple`.
        overlap: least number of pixels that neighbours share, below `tile`.
        multiple: tiles start and end at multiples of this.
        batch: tiles that go through a network together.
        least: where there are several tiles, none is smaller than this, a multiple too.
        fixed: see `TilePlan`; the tile is then `tile`, or half or a quarter of it along an axis
            where that covers the latent, so that many sizes have few shapes.

    Raises:
        ValueError: a size is no multiple, or the overlap leaves no room.
    """
    if min(h, w, tile) < 1 or h % multiple or w % multiple or tile % multiple:
        raise ValueError(
            f"The latent is {w}x{h} and tiles are {tile}, expected multiples of {multiple}."
        )
    if not 0 <= overlap <= tile - multiple:
        raise ValueError(
            f"The overlap is {overlap}, expected 0 to {tile - multiple} for tiles of {tile}."
        )
    (tile_h, rows), (tile_w, columns) = (
        _cover(size, tile, overlap, multiple, tile if fixed else least) for size in (h, w)
    )
    if fixed:
        tile_h, tile_w = (_shape(side, tile, max(least, multiple)) for side in (tile_h, tile_w))
    return TilePlan((h, w), (tile_h, tile_w), rows, columns, batch, fixed)


def _shape(side: int, tile: int, multiple: int) -> int:
    """The least of tile, tile / 2 and tile / 4 that a side fits into, as a multiple."""
    shapes = (padded_size(tile // part, 1, multiple)[0] for part in (4, 2, 1))
    return next(shape for shape in shapes if shape >= side)


def _cover(
    size: int, tile: int, overlap: int, multiple: int, least: int
) -> tuple[int, tuple[int, ...]]:
    """Side of the tiles along an axis, and their evenly spread first positions."""
    if size <= tile:
        return size, (0,)
    # In units of `multiple`, so that rounding never widens a gap.
    size, tile, least = size // multiple, tile // multiple, least // multiple
    overlap = -(-overlap // multiple)
    count = math.ceil((size - overlap) / (tile - overlap))
    tile = max(math.ceil((size + (count - 1) * overlap) / count), min(least, tile))
    starts = (i * (size - tile) // (count - 1) for i in range(count))
    return tile * multiple, tuple(start * multiple for start in starts)


def apply_tiled(
    function: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    plan: TilePlan | None,
    *,
    input_scale: int = 1,
    output_scale: int = 1,
    device: torch.device | None = None,
    callback: Callable[[], None] | None = None,
) -> Tensor:
    """function(*inputs), tile by tile.

    Where tiles overlap, results are blended with weights that rise smoothly from each tile's inner
    edges, so one tile fades into the next. With one tile it is the plain call.

    Args:
        function: of tensors [N,*,H,W] to one tensor [N,*,H',W'].
        inputs: [B,*,input_scale h, input_scale w] each.
        plan: of an h x w latent; None for all of it in one.
        input_scale, output_scale: pixels of inputs and result for each of the latent's.
        device: of the result; None for where the function leaves it.
        callback: called after each tile of each picture; what it raises ends the run.

    Returns:
        [B,*,output_scale h, output_scale w].
    """
    pictures = len(inputs[0])
    if plan is None or (len(plan) == 1 and pictures <= plan.batch and not plan.fixed):
        result = function(*inputs)
        if callback:
            for _ in range(pictures):
                callback()
        return result if device is None else result.to(device)
    h, w = plan.size
    places = plan.places(pictures)
    blended: Tensor | None = None
    for first in range(0, len(places), plan.batch):
        together = places[first : first + plan.batch]
        cuts = (
            torch.cat([_cut(x, *place, plan, input_scale) for place in together]) for x in inputs
        )
        parts = _call(function, cuts, plan, input_scale, output_scale)
        if blended is None:
            shape = (pictures, parts.shape[1], h * output_scale, w * output_scale)
            blended = parts.new_zeros(shape, device=device)
        for (i, y, x), part in zip(together, parts.split(1), strict=True):
            faded = part * plan.weight(y, x, output_scale, parts) if len(plan) > 1 else part
            _cut(blended, i, y, x, plan, output_scale).add_(faded.to(blended.device))
            if callback:
                callback()
    assert blended is not None
    return blended


def _call(
    function: Callable[..., Tensor],
    cuts: Iterable[Tensor],
    plan: TilePlan,
    input_scale: int,
    output_scale: int,
) -> Tensor:
    """function(*cuts), [n,*,th,tw]; where the plan is fixed they are filled up to its shape."""
    if not plan.fixed:
        return function(*cuts)
    filled: list[Tensor] = []
    n, th, tw = 0, 0, 0
    for x in cuts:
        n, _, th, tw = x.shape
        x = reflect_pad(x, *(input_scale * side for side in plan.tile), block=input_scale)
        filled.append(torch.cat([x, x[-1:].expand(plan.batch - n, -1, -1, -1)]))
    th, tw = (output_scale * side // input_scale for side in (th, tw))
    return function(*filled)[:n, :, :th, :tw]


def _cut(x: Tensor, picture: int, top: int, left: int, plan: TilePlan, scale: int) -> Tensor:
    rows = slice(top * scale, (top + plan.tile[0]) * scale)
    columns = slice(left * scale, (left + plan.tile[1]) * scale)
    return x[picture : picture + 1, :, rows, columns]


def _weights(starts: Sequence[int], tile: int, size: int, scale: int) -> dict[int, Tensor]:
    """Weights of each tile along one axis, [tile * scale]; at every position they sum to 1."""
    position = (torch.arange(size * scale, dtype=torch.float64) + 0.5) / scale
    raw = torch.zeros(len(starts), size * scale, dtype=torch.float64)
    for i, start in enumerate(starts):
        inside = (position > start) & (position < start + tile)
        # Distance to the nearest edge that has a neighbour, as a share of the overlap there.
        rise = torch.ones_like(position)
        if i > 0:
            overlap = max(starts[i - 1] + tile - start, 1e-9)
            rise = rise.minimum((position - start) / overlap)
        if i < len(starts) - 1:
            overlap = max(start + tile - starts[i + 1], 1e-9)
            rise = rise.minimum((start + tile - position) / overlap)
        raw[i] = torch.where(inside, torch.sin(rise.clamp(0, 1) * math.pi / 2) ** 2, 0)
    raw /= raw.sum(dim=0)
    return {start: raw[i, start * scale : (start + tile) * scale] for i, start in enumerate(starts)}
