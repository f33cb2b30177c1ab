"""Sizes of the networks; the defaults are the released ones (paper Section 4.1).

Every field of a network's config that a tensor shape tells is derived from the checkpoint
(`lpnsr_impl.files.checkpoints`).
"""

from dataclasses import dataclass
from typing import Literal

SCALE = 4
"""Super-resolution factor and autoencoder compression: a latent has the LR image's size."""

LARGEST_TILE = 256
"""Largest tile that is chosen automatically, in LR pixels, as in the published inference."""

PredictorMode = Literal["sample", "mean"]

Wrap = Literal["none", "x", "y", "both"]
"""Axes along which an image continues at its other edge: x for left and right, y for top and
bottom."""

WRAP_OVERLAP = 32
"""Least number of LR pixels by which a tile that wraps overlaps itself."""


def wraps(wrap: Wrap) -> tuple[bool, bool]:
    """Whether y and x wrap."""
    return wrap in ("y", "both"), wrap in ("x", "both")


@dataclass(frozen=True)
class AutoencoderConfig:
    """VQ-f4 autoencoder. `level_channels` runs from the image's resolution down to the latent's."""

    level_channels: tuple[int, ...] = (128, 256, 512)
    num_res_blocks: int = 2
    image_channels: int = 3
    latent_channels: int = 3
    embed_channels: int = 3
    num_codes: int = 8192
    attention: bool = True  # of the whole picture, in the middle of encoder and decoder
    norm_groups: int = 32  # of the GroupNorms; 0: fixed scales and shifts instead

    @property
    def size_multiple(self) -> int:
        """Latents may have any height and width."""
        return 1

    @property
    def tile_multiple(self) -> int:
        """Smallest useful tile of a latent."""
        return 32

    @property
    def largest_tile(self) -> int:
        """Largest automatic tile, in LR pixels. The cost of attention grows with its square."""
        return LARGEST_TILE


@dataclass(frozen=True)
class UNetConfig:
    """ResShift's Swin-U-Net, as denoiser (the defaults) or noise predictor (9 to 6 channels)."""

    in_channels: int = 6
    out_channels: int = 3
    model_channels: int = 160
    level_channels: tuple[int, ...] = (160, 320, 320, 640)
    num_res_blocks: int = 2
    swin_width: int = 192
    swin_depth: int = 2
    mlp_width: int = 768
    head_width: int = 32
    window_size: int = 8
    trained_resolution: int = 64
    norm_size: int | None = None  # of maps whose share of border all norms keep, in LR pixels
    largest_tile: int = LARGEST_TILE  # in LR pixels, of automatic tiles

    def resolution_at(self, level: int) -> int:
        """Height and width, in latent pixels, that `level` saw during training."""
        return self.trained_resolution >> level

    def norm_size_at(self, level: int) -> int | None:
        """`norm_size` at `level`, where maps are smaller."""
        return None if self.norm_size is None else self.norm_size >> level

    def window_at(self, level: int) -> int:
        """Side of the attention windows at `level`, at most the trained resolution there."""
        return min(self.window_size, self.resolution_at(level))

    def shift_at(self, level: int) -> int:
        """Shift of the odd Swin blocks at `level`: 0 where one window covered all in training."""
        return 0 if self.resolution_at(level) <= self.window_size else self.window_size // 2

    @property
    def size_multiple(self) -> int:
        """Latent height and width must be multiples of this, so that every level halves evenly."""
        return 1 << (len(self.level_channels) - 1)

    @property
    def tile_multiple(self) -> int:
        """Windows divide latents of these sizes at every level; others are filled up there."""
        return max(self.window_at(level) << level for level in range(len(self.level_channels)))


@dataclass(frozen=True)
class ScheduleConfig:
    """Table of eta that a network was trained with, as arguments of `Schedule`.

    No tensor shape tells it, and it is no part of the sizes: the file's header or name does. The
    defaults are those of ResShift's 4-step models, which LPNSR builds on.
    """

    num_timesteps: int = 4
    min_noise_level: float = 0.2
    sqrt_eta_end: float = 0.99
    power: float = 0.3


LPNSR_SCHEDULE = ScheduleConfig()
RESSHIFT_15 = ScheduleConfig(num_timesteps=15, min_noise_level=0.04)
"""ResShift's first real-world models (`realsrx4_s15_v1` and `_v2`), and its one-step students."""


@dataclass(frozen=True)
class StudentConfig:
    """How a one-step student of the family departs from the 15-step teacher it was distilled from.

    Attributes:
        name: of the method.
        noise_planes: channels of standard normal noise that the network reads behind its condition.
        condition: what stands for the LR image: itself ("pixel") or y0 ("latent").
        full_noise: whether it starts from kappa z, without the teacher's sqrt(eta_T).
        quantize: whether its prediction is decoded as the nearest codes.
    """

    name: str
    noise_planes: int = 0
    condition: Literal["pixel", "latent"] = "pixel"
    full_noise: bool = False
    quantize: bool = True


@dataclass(frozen=True)
class Family:
    """What the networks of one model family have in common.

    Attributes:
        name: of the family, or "unnamed" if no network has one.
        schedule: what denoiser and noise predictor were trained with.
        student: what is special about the denoiser if it is a one-step student.
    """

    name: str = "unnamed"
    schedule: ScheduleConfig = LPNSR_SCHEDULE
    student: StudentConfig | None = None

    @property
    def quantize(self) -> bool:
        """Whether the prediction is decoded as the nearest codes."""
        return self.student is None or self.student.quantize


SINSR = StudentConfig("SinSR")
RSD = StudentConfig("RSD", noise_planes=1, condition="latent", full_noise=True, quantize=False)

RELEASED_AUTOENCODER = AutoencoderConfig()
RELEASED_DENOISER = UNetConfig()
RELEASED_NOISE_PREDICTOR = UNetConfig(in_channels=9, out_channels=6)
