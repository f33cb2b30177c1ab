"""Sizes of the networks; the defaults are the released ones (paper Section 4.1).

Fields that can be derived from tensor shapes are read from the checkpoint, see
`lpnsr_impl.files.shapes`.
"""

from dataclasses import dataclass
from typing import Literal

SCALE = 4
"""Super-resolution factor and autoencoder compression: latent and LR image have the same size."""

LARGEST_TILE = 256
"""Largest tile size that is chosen automatically, in LR pixels; the published inference code has
the same limit."""

PredictorMode = Literal["sample", "mean"]

Wrap = Literal["none", "x", "y", "both"]
"""Axes along which an image is periodic: x joins its left and right edges, y its top and bottom."""

WRAP_OVERLAP = 32
"""Minimum overlap of a tile with itself, in LR pixels, along an axis that wraps."""


def wraps(wrap: Wrap) -> tuple[bool, bool]:
    """Return whether the y axis wraps and whether the x axis wraps."""
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
    attention: bool = True  # global self-attention in the middle blocks of encoder and decoder
    norm_groups: int = 32  # 0: a fixed scale and shift per channel instead of GroupNorm

    @property
    def size_multiple(self) -> int:
        """1, because latents may have any height and width."""
        return 1

    @property
    def tile_multiple(self) -> int:
        """Smallest useful tile, in LR pixels."""
        return 32

    @property
    def largest_tile(self) -> int:
        """Largest automatic tile, in LR pixels. Attention costs the square of a tile's area."""
        return LARGEST_TILE


@dataclass(frozen=True)
class UNetConfig:
    """ResShift's Swin-U-Net: a denoiser (the defaults), or a noise predictor with 9 input and 6
    output channels."""

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
    norm_size: int | None = None  # `size` of BorderedGroupNorm, in LR pixels; None: GroupNorm
    largest_tile: int = LARGEST_TILE  # largest automatic tile, in LR pixels

    def resolution_at(self, level: int) -> int:
        """Height and width of the feature maps at `level` during training."""
        return self.trained_resolution >> level

    def norm_size_at(self, level: int) -> int | None:
        """`norm_size` in pixels of the feature maps at `level`."""
        return None if self.norm_size is None else self.norm_size >> level

    def window_at(self, level: int) -> int:
        """Side of the attention windows at `level`, at most the trained resolution there."""
        return min(self.window_size, self.resolution_at(level))

    def shift_at(self, level: int) -> int:
        """Shift of every second Swin block at `level`: 0 if one window covered the whole feature
        map in training."""
        return 0 if self.resolution_at(level) <= self.window_size else self.window_size // 2

    @property
    def size_multiple(self) -> int:
        """Latent height and width must be multiples of this, so that every level halves evenly."""
        return 1 << (len(self.level_channels) - 1)

    @property
    def tile_multiple(self) -> int:
        """Tile sizes that are multiples of this consist of whole windows at every level. The
        feature maps of other sizes are padded."""
        return max(self.window_at(level) << level for level in range(len(self.level_channels)))


@dataclass(frozen=True)
class ScheduleConfig:
    """The noise schedule that a network was trained with, as arguments of `Schedule`.

    It can't be derived from tensor shapes, so it is read from the file's header or name. The
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
    """Differences between a one-step student and the 15-step teacher it was distilled from.

    Attributes:
        name: name of the distillation method.
        noise_planes: number of channels of standard normal noise that follow the condition in the
            network's input.
        condition: input that the network is conditioned on: the LR image ("pixel") or y0
            ("latent").
        full_noise: whether the initial noise is kappa z instead of the teacher's
            kappa sqrt(eta_T) z.
        quantize: whether the clean prediction is quantised before it is decoded.
    """

    name: str
    noise_planes: int = 0
    condition: Literal["pixel", "latent"] = "pixel"
    full_noise: bool = False
    quantize: bool = True


@dataclass(frozen=True)
class Family:
    """Properties that all networks of one model family share.

    Attributes:
        name: name of the family, or "unnamed" if no file has one.
        schedule: noise schedule that denoiser and noise predictor were trained with.
        student: config of the one-step student, or None for other denoisers.
    """

    name: str = "unnamed"
    schedule: ScheduleConfig = LPNSR_SCHEDULE
    student: StudentConfig | None = None

    @property
    def quantize(self) -> bool:
        """Whether the clean prediction is quantised before it is decoded."""
        return self.student is None or self.student.quantize


SINSR = StudentConfig("SinSR")
RSD = StudentConfig("RSD", noise_planes=1, condition="latent", full_noise=True, quantize=False)

RELEASED_AUTOENCODER = AutoencoderConfig()
RELEASED_DENOISER = UNetConfig()
RELEASED_NOISE_PREDICTOR = UNetConfig(in_channels=9, out_channels=6)
