"""Large pictures in bounded memory: a network applied to overlapping tiles, results blended.

Tiles are planned on the latent, so encoder, U-Net and decoder can share a plan.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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
        tile: (h, w) of each tile.
        rows, columns: first row and column of the tiles.
        batch: tiles that go through a network together.
    """

    size: tuple[int, int]
    tile: tuple[int, int]
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    batch: int = 1

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)


def plan_tiles(
    h: int, w: int, tile: int, overlap: int, multiple: int, batch: int = 1, least: int = 0
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
        _cover(size, tile, overlap, multiple, least) for size in (h, w)
    )
    return TilePlan((h, w), (tile_h, tile_w), rows, columns, batch)


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
        function: of tensors [B,*,H,W] to one tensor [B,*,H',W'].
        inputs: [B,*,input_scale h, input_scale w] each.
        plan: of an h x w latent; None for all of it in one.
        input_scale, output_scale: pixels of inputs and result for each of the latent's.
        device: of the result; None for where the function leaves it.
        callback: called after each tile; what it raises ends the run.

    Returns:
        [B,*,output_scale h, output_scale w].
    """
    if plan is None or len(plan) == 1:
        result = function(*inputs)
        if callback:
            callback()
        return result if device is None else result.to(device)
    h, w = plan.size
    places = [(y, x) for y in plan.rows for x in plan.columns]
    weights_y = _weights(plan.rows, plan.tile[0], h, output_scale)
    weights_x = _weights(plan.columns, plan.tile[1], w, output_scale)
    blended: Tensor | None = None
    for first in range(0, len(places), plan.batch):
        together = places[first : first + plan.batch]
        cuts = (
            torch.cat([_cut(i, *place, plan.tile, input_scale) for place in together])
            for i in inputs
        )
        parts = function(*cuts).chunk(len(together))
        if blended is None:
            shape = (*parts[0].shape[:2], h * output_scale, w * output_scale)
            blended = torch.zeros(shape, dtype=parts[0].dtype, device=device or parts[0].device)
        for (y, x), part in zip(together, parts, strict=True):
            faded = part * weights_y[y].to(part)[:, None] * weights_x[x].to(part)
            _cut(blended, y, x, plan.tile, output_scale).add_(faded.to(blended.device))
            if callback:
                callback()
    assert blended is not None
    return blended


def _cut(x: Tensor, top: int, left: int, tile: tuple[int, int], scale: int) -> Tensor:
    rows = slice(top * scale, (top + tile[0]) * scale)
    columns = slice(left * scale, (left + tile[1]) * scale)
    return x[:, :, rows, columns]


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
