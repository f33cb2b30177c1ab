"""Widgets that several nodes have, described once."""

from typing import get_args

from comfy_api.latest import io

from ..lpnsr_impl.config import LARGEST_TILE, RESSHIFT_15, SCALE, PredictorMode, Wrap
from ..lpnsr_impl.engine.tiled import DEFAULT_OVERLAP
from ..lpnsr_impl.pictures.color import COLOR_FIXES
from ..lpnsr_impl.pictures.masks import DEFAULT_FEATHER
from ..lpnsr_impl.pictures.target import LARGEST_FACTOR

_CHOICES = {
    "predictor_mode": list(get_args(PredictorMode)),
    "color_fix": list(COLOR_FIXES),
    "wrap": list(get_args(Wrap)),
}

_MOST_FEATHER = 128
_MOST_PIXELS = 1 << 16

IMAGE = io.Image.Input(
    "image",
    tooltip="The low-resolution image, of any size. Grey and RGBA work too.",
)

UPSCALE_MODEL = io.UpscaleModel.Input(
    "upscale_model",
    optional=True,
    tooltip="Any model of Load Upscale Model as the start (PreSet-B). Leave it open for bicubic "
    "(PreSet-A).",
)

SEED = io.Int.Input(
    "seed",
    default=12345,
    min=0,
    max=0xFFFFFFFFFFFFFFFF,
    control_after_generate=True,
    tooltip="Seed of the noise. The same seed gives the same picture, in any place of a batch; "
    "in other tiles (see tile_size) nearly the same.",
)

STEPS = io.Int.Input(
    "steps",
    default=4,
    min=1,
    max=RESSHIFT_15.num_timesteps,
    tooltip="The step that the diffusion starts at, down to 1 (the paper's arbitrary-step "
    "start). 1 keeps nearly all of the start, is quick and wants an upscale model; 4 hides "
    "most of it under noise, cleans up and invents most, and takes twice as long; 2 and 3 lie "
    "between. More than 4 is for ResShift's 15-step denoisers (s15), which want all 15. "
    "One-step students (SinSR, RSD) take their one step whatever this says.",
)

KAPPA = io.Float.Input(
    "kappa",
    default=2.0,
    min=0.0,
    max=10.0,
    step=0.05,
    tooltip="Noise scale of the diffusion. The models were trained with 2.0; less gives "
    "calmer pictures.",
)

USE_PREDICTOR = io.Boolean.Input(
    "use_predictor",
    default=True,
    tooltip="Predict the noise of the steps in between (LPNSR), or draw it at random (ResShift).",
)

PREDICTOR_MODE = io.Combo.Input(
    "predictor_mode",
    options=_CHOICES["predictor_mode"],
    default="sample",
    tooltip="'sample' draws from the predicted distribution, as published; 'mean' takes its mean.",
)

COLOR_FIX = io.Combo.Input(
    "color_fix",
    options=_CHOICES["color_fix"],
    default="wavelet",
    tooltip="Takes the colours from the LR image: 'wavelet' locally, as published, "
    "'adain' by the mean and contrast of each channel; 'none' leaves them as decoded.",
)

TILE_SIZE = io.Int.Input(
    "tile_size",
    default=0,
    min=0,
    max=2048,
    step=32,
    optional=True,
    tooltip="Largest tile, in pixels of the LR image. 0 chooses by the free memory, at most "
    f"{LARGEST_TILE}. A tile that does not fit after all is halved. Other tiles change details "
    "a little: for the same picture with any memory set a size that always fits.",
)

OVERLAP = io.Int.Input(
    "overlap",
    default=DEFAULT_OVERLAP,
    min=0,
    max=512,
    step=8,
    optional=True,
    tooltip="How many pixels of the LR image neighbouring tiles share at least. More hides "
    "tiles better and takes longer. Without tiles it has no effect.",
)

LR_IMAGE = io.Image.Input(
    "lr_image",
    optional=True,
    tooltip="The LR image, only where the latent has lost it, or never had it: after Load "
    "Latent or VAE Encode. Else leave it open.",
)

LR_CONSISTENCY = io.Boolean.Input(
    "lr_consistency",
    default=False,
    optional=True,
    tooltip="Correct the result until it is the LR image again when it is downscaled to its "
    "size, bicubic with antialiasing. Noise of the LR image comes back with it.",
)

WRAP = io.Combo.Input(
    "wrap",
    options=_CHOICES["wrap"],
    default="none",
    optional=True,
    tooltip="For pictures that go on at their other side, so that no seam shows there: 'x' "
    "left and right (360-degree panoramas), 'y' top and bottom, 'both' for seamless textures.",
)

FACTOR = io.Float.Input(
    "factor",
    default=float(SCALE),
    min=1.0,
    max=float(LARGEST_FACTOR),
    step=0.05,
    optional=True,
    tooltip="How many times as wide and high the result is. 4 is what the models make. Less is "
    "downscaled from that (1 cleans up and keeps the size); more takes a second pass, from a "
    "quarter of the size wanted.",
)

LONGEST_SIDE = io.Int.Input(
    "longest_side",
    default=0,
    min=0,
    max=_MOST_PIXELS,
    optional=True,
    tooltip="Width or height of the result, whichever is longer, in pixels, such as 3840. It "
    "takes the place of factor; 0 leaves it to factor. From once to 16 times that of the "
    "image.",
)

MASK = io.Mask.Input(
    "mask",
    optional=True,
    tooltip="Regenerate where the mask is 1 and keep the pre-upsampled image where it is 0. "
    "Of the LR image's shape, in any size; one for all images, or one for each.",
)

FEATHER = io.Int.Input(
    "feather",
    default=DEFAULT_FEATHER,
    min=0,
    max=_MOST_FEATHER,
    optional=True,
    tooltip="How many pixels of the LR image the mask's edges fade over, half of them on "
    "either side. Without a mask it has no effect.",
)

LR_PSNR = io.Float.Output(
    "lr_psnr",
    display_name="LR-PSNR",
    tooltip="PSNR in dB between the LR image and the result downscaled to its size, before "
    "rounding to 8 bits; the mean over a batch. 100 at most.",
)


def require_choices(**values: str) -> None:
    """For `execute`, since ComfyUI validates no linked combo.

    Raises:
        ValueError: a value is none of its widget's choices.
    """
    if (problem := check_choices(**values)) is not True:
        raise ValueError(problem)


def check_choices(**values: str | None) -> bool | str:
    """For `validate_inputs`: True, or what is wrong with the first value that is none of its
    widget's choices. A linked input is None."""
    for widget, value in values.items():
        if value is not None and value not in _CHOICES[widget]:
            choices = ", ".join(_CHOICES[widget])
            return f"{widget}: {value!r} is unknown, choose one of: {choices}"
    return True
