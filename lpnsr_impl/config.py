"""Configs of networks and noise schedules. The defaults are those of the released models (Section
4.1 of the LPNSR paper).

When a checkpoint is loaded, most fields are derived from its tensor shapes, see
`lpnsr_impl.files.shapes`.
"""

from dataclasses import dataclass
from typing import Literal

SCALE = 4
"""Super-resolution factor. The autoencoder downscales by the same factor, so the latent of an
upscaled image has the height and width of the LR image."""

LARGEST_TILE = 256
"""Largest tile size that is chosen automatically, in LR pixels. The inference code published with
LPNSR has the same limit."""

PredictorMode = Literal["sample", "mean"]

Wrap = Literal["none", "x", "y", "both"]
"""Axes along which an image is periodic: x joins its left and right edges, y its top and bottom."""

WRAP_OVERLAP = 32
"""Minimum overlap between the two ends of a tile that covers the whole image along a periodic axis,
in LR pixels."""


def wraps(wrap: Wrap) -> tuple[bool, bool]:
    """Return whether the y axis is periodic, and whether the x axis is periodic."""
    return wrap in ("y", "both"), wrap in ("x", "both")


@dataclass(frozen=True)
class AutoencoderConfig:
    """Config of a VQ-f4 autoencoder.

    `level_channels` has the number of channels of each level, from image to latent resolution.
    """

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
        """Always 1, because latents may have any height and width."""
        return 1

    @property
    def tile_multiple(self) -> int:
        """Minimum tile size, in LR pixels."""
        return 32

    @property
    def largest_tile(self) -> int:
        """Largest tile size that is chosen automatically, in LR pixels.

        The cost of attention grows with the square of a tile's area.
        """
        return LARGEST_TILE


@dataclass(frozen=True)
class UNetConfig:
    """Config of ResShift's Swin-U-Net.

    The defaults are those of the denoiser. The noise predictor has 9 input and 6 output channels.
    """

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
    norm_size: int | None = None  # size of BorderedGroupNorm in LR pixels; None: GroupNorm
    largest_tile: int = LARGEST_TILE  # largest tile size chosen automatically, in LR pixels

    def resolution_at(self, level: int) -> int:
        """Height and width of the feature maps at `level` during training."""
        return self.trained_resolution >> level

    def norm_size_at(self, level: int) -> int | None:
        """`norm_size`, converted to pixels of the feature maps at `level`."""
        return None if self.norm_size is None else self.norm_size >> level

    def window_at(self, level: int) -> int:
        """Height and width of the attention windows at `level`, at most `resolution_at(level)`."""
        return min(self.window_size, self.resolution_at(level))

    def shift_at(self, level: int) -> int:
        """Window shift of every second Swin block at `level`.

        It is 0 if one window covered the whole feature map during training.
        """
        return 0 if self.resolution_at(level) <= self.window_size else self.window_size // 2

    @property
    def size_multiple(self) -> int:
        """Latent height and width must be multiples of this number, so that each downsampling
        layer can halve them."""
        return 1 << (len(self.level_channels) - 1)

    @property
    def tile_multiple(self) -> int:
        """A tile whose height and width are multiples of this number consists of whole attention
        windows at every level. The feature maps of other tiles are padded."""
        return max(self.window_at(level) << level for level in range(len(self.level_channels)))


@dataclass(frozen=True)
class ScheduleConfig:
    """The noise schedule that a network was trained with, as arguments of `Schedule`.

    It can't be derived from tensor shapes, so it is read from the checkpoint's header or file name.
    The defaults are those of ResShift's 4-step models, which LPNSR builds on.
    """

    num_timesteps: int = 4
    min_noise_level: float = 0.2
    sqrt_eta_end: float = 0.99
    power: float = 0.3


LPNSR_SCHEDULE = ScheduleConfig()
RESSHIFT_15 = ScheduleConfig(num_timesteps=15, min_noise_level=0.04)
"""Schedule of ResShift's 15-step models (`realsrx4_s15_v1` and `_v2`), and of the one-step students
distilled from them."""


@dataclass(frozen=True)
class StudentConfig:
    """Differences between a one-step student and the 15-step teacher it was distilled from.

    Attributes:
        name: name of the distillation method.
        noise_planes: number of channels of standard normal noise that are appended to the condition
            in the network's input.
        condition: what the network is conditioned on: "pixel" for the LR image, "latent" for the
            latent y0 of the pre-upsampled image.
        full_noise: whether the standard deviation of the initial noise is kappa instead of the
            teacher's kappa sqrt(eta_T).
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
        name: name of the family, or "unnamed" if no checkpoint contains a name.
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
