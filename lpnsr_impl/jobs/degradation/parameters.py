"""Draws random degradations by Real-ESRGAN's recipe, with LPNSR's ranges or milder ones."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from .kernels import gaussian_kernel, sinc_kernel

ResizeMode = Literal["area", "bilinear", "bicubic"]
NoiseKind = Literal["gaussian", "poisson"]

RESIZE_MODES: tuple[ResizeMode, ...] = ("area", "bilinear", "bicubic")
JPEG_QUALITY = (30, 95)


@dataclass(frozen=True)
class OrderSettings:
    """Ranges and probabilities of one order of the degradation: blur, resize and noise."""

    blur: float  # probability of a blur
    kernel_sizes: tuple[int, int]  # minimum and maximum kernel size, both odd
    sigma: tuple[float, float]  # minimum and maximum sigma of the blur in pixels
    resize: tuple[float, float, float]  # probabilities of enlarging, reducing, keeping the size
    scale: tuple[float, float]  # minimum and maximum scale factor
    gaussian_sigma: tuple[float, float]  # minimum and maximum sigma of the noise in 8-bit levels
    poisson_scale: tuple[float, float]  # minimum and maximum factor for the noise


FIRST = OrderSettings(
    1.0, (3, 21), (0.2, 3.0), (0.2, 0.7, 0.1), (0.15, 1.5), (1.0, 30.0), (0.05, 3.0)
)
SECOND = OrderSettings(
    0.8, (3, 15), (0.2, 1.5), (0.3, 0.4, 0.3), (0.3, 1.2), (1.0, 25.0), (0.05, 2.5)
)

MILD = OrderSettings(0.6, (3, 15), (0.2, 1.5), (0.1, 0.3, 0.6), (0.5, 1.2), (0.0, 8.0), (0.0, 0.6))
"""Milder degradation, closer to typical pictures: a single order with less noise and blur."""

SECOND_PROBABILITY = 0.5
SINC_PROBABILITY = 0.1
GAUSSIAN_NOISE_PROBABILITY = 0.5
GREY_NOISE_PROBABILITY = 0.4
FINAL_SINC_PROBABILITY = 0.8
MILD_JPEG_QUALITY = (60, 98)
MILD_FINAL_SINC_PROBABILITY = 0.3
FINAL_KERNEL_SIZES = (3, 21)
FINAL_CUTOFF = (math.pi / 3, math.pi)
BETA_GENERALIZED = (0.5, 4.0)
BETA_PLATEAU = (1.0, 2.0)
SHAPES = ("gaussian", "generalized", "plateau")
SHAPE_PROBABILITIES = (  # (isotropic, anisotropic) for each of SHAPES
    (0.45, 0.25),
    (0.12, 0.03),
    (0.12, 0.03),
)


@dataclass(frozen=True)
class Blur:
    """A blur kernel. Its name is "sinc", or the shape followed by "iso" or "aniso"."""

    name: str
    kernel: Tensor  # [size,size], sums to 1


@dataclass(frozen=True)
class Resize:
    """Scale factor and interpolation of a resize."""

    scale: float  # relative to the HR size in the first order, to the LR size in the second
    mode: ResizeMode


@dataclass(frozen=True)
class Noise:
    """Gaussian or Poisson noise."""

    kind: NoiseKind
    level: float  # Gaussian: standard deviation for values in [0,1]; Poisson: noise factor
    grey: bool  # equal in all channels
    seed: int


@dataclass(frozen=True)
class Order:
    """One order of the degradation: optional blur, then resize, then noise."""

    blur: Blur | None
    resize: Resize
    noise: Noise


@dataclass(frozen=True)
class Degradation:
    """All parameters of the degradation of one HR picture to one LR picture."""

    first: Order
    first_jpeg: int  # JPEG quality after the first order
    second: Order | None
    final_mode: ResizeMode
    final_sinc: Blur | None
    final_jpeg: int
    jpeg_last: bool  # if false, the final JPEG precedes the final resize and sinc filter


def draw(rng: np.random.Generator, mild: float = 0.0) -> Degradation:
    """Draw a random degradation. With probability `mild` (0 to 1), it is a mild one.

    All randomness comes from `rng`, including the noise seeds.
    """
    if mild and rng.random() < mild:
        return _draw_mild(rng)
    first = _draw_order(rng, FIRST)
    first_jpeg = _draw_jpeg(rng, JPEG_QUALITY)
    second = _draw_order(rng, SECOND) if rng.random() < SECOND_PROBABILITY else None
    return Degradation(
        first=first,
        first_jpeg=first_jpeg,
        second=second,
        final_sinc=_draw_final_sinc(rng, FINAL_SINC_PROBABILITY),
        final_mode=_draw_mode(rng),
        final_jpeg=_draw_jpeg(rng, JPEG_QUALITY),
        jpeg_last=bool(rng.random() < 0.5),
    )


def _draw_mild(rng: np.random.Generator) -> Degradation:
    return Degradation(
        first=_draw_order(rng, MILD),
        first_jpeg=_draw_jpeg(rng, MILD_JPEG_QUALITY),
        second=None,
        final_sinc=_draw_final_sinc(rng, MILD_FINAL_SINC_PROBABILITY),
        final_mode="area",  # averages pixels, as usual for downscaling; other modes cause aliasing
        final_jpeg=_draw_jpeg(rng, MILD_JPEG_QUALITY),
        jpeg_last=True,
    )


def _draw_final_sinc(rng: np.random.Generator, probability: float) -> Blur | None:
    if rng.random() >= probability:
        return None
    size = _draw_size(rng, FINAL_KERNEL_SIZES)
    return Blur("sinc", sinc_kernel(size, rng.uniform(*FINAL_CUTOFF)))


def _draw_order(rng: np.random.Generator, settings: OrderSettings) -> Order:
    blur = _draw_blur(rng, settings) if rng.random() < settings.blur else None
    return Order(blur, _draw_resize(rng, settings), _draw_noise(rng, settings))


def _draw_blur(rng: np.random.Generator, settings: OrderSettings) -> Blur:
    size = _draw_size(rng, settings.kernel_sizes)
    if rng.random() < SINC_PROBABILITY:
        # Large kernels may have lower cutoff frequencies, as in Real-ESRGAN.
        min_cutoff = math.pi / 3 if size < 13 else math.pi / 5
        return Blur("sinc", sinc_kernel(size, rng.uniform(min_cutoff, math.pi)))
    branch = int(rng.choice(6, p=np.ravel(SHAPE_PROBABILITIES)))
    shape, isotropic = SHAPES[branch // 2], branch % 2 == 0
    sigma_x = rng.uniform(*settings.sigma)
    sigma_y = sigma_x if isotropic else rng.uniform(*settings.sigma)
    theta = 0.0 if isotropic else rng.uniform(-math.pi, math.pi)
    beta = 1.0
    if shape != "gaussian":
        low, high = BETA_GENERALIZED if shape == "generalized" else BETA_PLATEAU
        beta = rng.uniform(low, 1) if rng.random() < 0.5 else rng.uniform(1, high)
    kernel = gaussian_kernel(size, sigma_x, sigma_y, theta, shape, beta)
    return Blur(f"{shape} {'iso' if isotropic else 'aniso'}", kernel)


def _draw_resize(rng: np.random.Generator, settings: OrderSettings) -> Resize:
    direction = rng.choice(("up", "down", "keep"), p=settings.resize)
    low, high = settings.scale
    scale = {"up": rng.uniform(1, high), "down": rng.uniform(low, 1), "keep": 1.0}[direction]
    return Resize(scale, _draw_mode(rng))


def _draw_noise(rng: np.random.Generator, settings: OrderSettings) -> Noise:
    kind: NoiseKind = "gaussian" if rng.random() < GAUSSIAN_NOISE_PROBABILITY else "poisson"
    if kind == "gaussian":
        level = rng.uniform(*settings.gaussian_sigma) / 255
    else:
        level = rng.uniform(*settings.poisson_scale)
    grey = bool(rng.random() < GREY_NOISE_PROBABILITY)
    return Noise(kind, level, grey, int(rng.integers(2**63)))


def _draw_mode(rng: np.random.Generator) -> ResizeMode:
    return RESIZE_MODES[rng.integers(len(RESIZE_MODES))]


def _draw_size(rng: np.random.Generator, sizes: tuple[int, int]) -> int:
    """Draw an odd kernel size."""
    low, high = sizes
    return int(rng.integers(low // 2, high // 2 + 1)) * 2 + 1


def _draw_jpeg(rng: np.random.Generator, qualities: tuple[int, int]) -> int:
    low, high = qualities
    return int(rng.integers(low, high + 1))
