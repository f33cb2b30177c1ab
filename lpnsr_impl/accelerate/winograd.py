"""Winograd's minimal filtering for 3x3 convolutions (Lavin and Gray, "Fast Algorithms for
Convolutional Neural Networks", Section 4.3). It needs a quarter of the multiplications, or a sixth
if the convolution follows nearest-neighbour upsampling.

F(4x4, 3x3) computes 4x4 outputs from 6x6 inputs with 36 multiplications instead of 144. After
nearest-neighbour upsampling x2, the 6x6 inputs contain only 4x4 different pixels. Repeating pixels
multiplies the polynomial of the input by 1 + x, so all products at the interpolation point -1 are
zero, and 25 products remain.

Rounding errors are about ten times as large as those of a direct convolution in fp32. Compared with
float64, the RMS error is 2e-6 to 3e-6 and the maximum error 5e-5, relative to the RMS of the
result.

The image is processed in strips of rows that fit into the caches, because accessing main memory
costs more time than the arithmetic.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_OUTPUTS = 4  # outputs of a tile, along each axis
_STRIP_TILES = 160  # more tiles do not fit into the caches, fewer make the matrices too small


def _matrix(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32, device="cpu")


_INPUT = _matrix(
    [
        [4.0, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_WEIGHT = _matrix(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
_OUTPUT = _matrix(
    [[1.0, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
)
_NEAREST_X2 = _matrix(  # from 4 pixels to 6 upsampled ones, the first being the right one of a pair
    [[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
)
_POINTS_X2 = [0, 1, 3, 4, 5]
_POINT_1 = 1


@dataclass(frozen=True)
class Filtering:
    """Transforms that compute 4 outputs from `step` + 2 inputs along one axis, with P products.

    Attributes:
        step: distance between neighbouring tiles, in input pixels.
        of_input: transform of the input, [P,step + 2].
        of_weight: transform of the weight, [P,3].
        to_output: transform of the products, [4,P].
    """

    step: int
    of_input: Tensor
    of_weight: Tensor
    to_output: Tensor


CONV = Filtering(4, _INPUT, _WEIGHT, _OUTPUT)
"""Transforms of a 3x3 convolution with a padding of 1."""

UPSAMPLE_CONV = Filtering(
    2, (_INPUT @ _NEAREST_X2)[_POINTS_X2], _WEIGHT[_POINTS_X2], _OUTPUT[:, _POINTS_X2]
)
"""Transforms of nearest-neighbour upsampling x2, then a 3x3 convolution with a padding of 1."""


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, filtering: Filtering = CONV) -> Tensor:
    """Convolve x, or its nearest-neighbour upsampling x2, with a 3x3 kernel and a padding of 1.

    Args:
        x: float32 [B,in,h,w].
        weight: [out,in,3,3].
        bias: [out], or None.
        filtering: `CONV` or `UPSAMPLE_CONV`.

    Returns:
        [B,out,h,w], or [B,out,2h,2w] for `UPSAMPLE_CONV`, in channels-last format.
    """
    (b, c, h, w), o, step = x.shape, len(weight), filtering.step
    tiles_h, tiles_w = -(-h // step), -(-w // step)
    strip_rows = min(tiles_h, max(1, round(_STRIP_TILES / (b * tiles_w))))  # unit: tiles
    convolve_windows = _prepare(weight, bias, filtering, b * strip_rows * tiles_w)
    x = x.movedim(1, 3)  # [B,h,w,in]
    scale = _OUTPUTS // step
    y = x.new_empty(b, scale * h, scale * w, o)
    strip = x.new_zeros(b, step * strip_rows + 2, step * tiles_w + 2, c)
    for first in range(0, tiles_h, strip_rows):
        count = min(strip_rows, tiles_h - first)
        # A strip begins one row above its tiles, since the padding is 1.
        top, bottom = step * first - 1, min(step * (first + count) + 1, h)
        strip[:, max(-top, 0) : bottom - top, 1 : w + 1] = x[:, max(top, 0) : bottom]
        strip[:, bottom - top :] = 0
        windows = strip.unfold(1, step + 2, step)[:, :count].unfold(2, step + 2, step)
        outputs = convolve_windows(windows.permute(0, 1, 2, 4, 5, 3))
        _place(outputs, y[:, _OUTPUTS * first : _OUTPUTS * (first + count)])
    return y.movedim(3, 1)


def _prepare(
    weight: Tensor, bias: Tensor | None, filtering: Filtering, tiles: int
) -> Callable[[Tensor], Tensor]:
    """Transform the weights, and allocate the buffers for up to `tiles` tiles.

    Returns:
        A function that maps input windows [B,n,m,k,k,in] to outputs [B,n,m,4,4,out]. Each call
        overwrites the outputs of the previous call.
    """
    of_input, to_output = (torch.kron(m, m) for m in (filtering.of_input, filtering.to_output))
    (p, k), (o, c) = of_input.shape, weight.shape[:2]
    transformed_weight = _transform_weight(weight, filtering)
    # Adding the bias to this product adds it to all outputs.
    constant = len(filtering.of_input) * _POINT_1 + _POINT_1
    first, second = weight.new_empty(2, tiles * max(k * c, p * c, p * o, 16 * o))

    def convolve_windows(windows: Tensor) -> Tensor:
        n = windows.shape[:3].numel()
        inputs = first[: n * k * c].view(n, k, c)
        inputs.view(windows.shape).copy_(windows)
        factors = second[: n * p * c].view(n, p, c)
        torch.bmm(of_input.expand(n, p, k), inputs, out=factors)
        products = first[: n * p * o].view(p, n, o)
        torch.bmm(factors.transpose(0, 1), transformed_weight, out=products)
        if bias is not None:
            products[constant] += bias
        result = second[: n * 16 * o].view(n, 16, o)
        torch.bmm(to_output.expand(n, 16, p), products.transpose(0, 1), out=result)
        return result.view(*windows.shape[:3], _OUTPUTS, _OUTPUTS, o)

    return convolve_windows


def _place(tiles: Tensor, y: Tensor) -> None:
    """Write tiles [B,n,m,4,4,C] into the image y [B,h,w,C]. Pixels outside of the image are
    dropped."""
    b, n, m, _, _, c = tiles.shape
    h, w = y.shape[1:3]
    tiles = tiles.transpose(2, 3)  # [B,n,4,m,4,C]
    if (h, w) == (_OUTPUTS * n, _OUTPUTS * m):
        y.view(tiles.shape).copy_(tiles)
    else:
        y.copy_(tiles.reshape(b, _OUTPUTS * n, _OUTPUTS * m, c)[:, :h, :w])


def _transform_weight(weight: Tensor, filtering: Filtering) -> Tensor:
    """Transform a weight: [out,in,3,3] -> [P*P,in,out]"""
    matrix = torch.kron(filtering.of_weight, filtering.of_weight)
    return (matrix @ weight.reshape(-1, 9).T).view(len(matrix), *weight.shape[:2]).mT
