"""Inputs and outputs shared by several nodes."""

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

_MAX_FEATHER = 128
_MAX_SIDE = 1 << 16

IMAGE = io.Image.Input(
    "image",
    tooltip="The low-resolution (LR) image, of any size. May have an alpha channel.",
)

UPSCALE_MODEL = io.UpscaleModel.Input(
    "upscale_model",
    optional=True,
    tooltip="Upscale model, from Load Upscale Model. It creates the start of the diffusion "
    "(PreSet-B). If not connected, bicubic interpolation creates it (PreSet-A).",
)

SEED = io.Int.Input(
    "seed",
    default=12345,
    min=0,
    max=0xFFFFFFFFFFFFFFFF,
    control_after_generate=True,
    tooltip="Seed of the noise. The same seed gives the same picture. In a batch or with another "
    "tile_size, the picture is nearly the same.",
)

STEPS = io.Int.Input(
    "steps",
    default=4,
    min=1,
    max=RESSHIFT_15.num_timesteps,
    tooltip="Number of diffusion steps. 1 is fastest and hardly changes the pre-upsampled image: "
    "use it with an upscale model. 4 cleans up and invents the most detail, and takes about twice "
    "as long as 1. Use 15 for ResShift's 15-step denoisers (s15). One-step students (SinSR, RSD) "
    "ignore this setting.",
)

KAPPA = io.Float.Input(
    "kappa",
    default=2.0,
    min=0.0,
    max=10.0,
    step=0.05,
    tooltip="Noise scale of the diffusion. The models were trained with 2.0; lower values "
    "invent less detail, higher values more.",
)

USE_PREDICTOR = io.Boolean.Input(
    "use_predictor",
    default=True,
    tooltip="On: the noise between the steps is predicted (LPNSR). Off: it is random (ResShift).",
)

PREDICTOR_MODE = io.Combo.Input(
    "predictor_mode",
    options=_CHOICES["predictor_mode"],
    default="sample",
    tooltip="'sample' draws the noise from the predicted distribution, as in the paper. 'mean' "
    "uses the mean of the distribution and invents less detail.",
)

COLOR_FIX = io.Combo.Input(
    "color_fix",
    options=_CHOICES["color_fix"],
    default="wavelet",
    tooltip="Corrects the colours to those of the LR image. 'wavelet' corrects them locally, as "
    "in the paper; 'adain' matches mean and contrast of each channel; 'none' turns it off.",
)

TILE_SIZE = io.Int.Input(
    "tile_size",
    default=0,
    min=0,
    max=2048,
    step=32,
    optional=True,
    tooltip="Maximum tile size in pixels of the LR image. 0: chosen to fit into the free memory, "
    f"up to {LARGEST_TILE}. If memory runs out, tiles are halved. The tile size changes details a "
    "little: to get the same picture on every machine, set a size that fits on all of them.",
)

OVERLAP = io.Int.Input(
    "overlap",
    default=DEFAULT_OVERLAP,
    min=0,
    max=512,
    step=8,
    optional=True,
    tooltip="Minimum overlap of neighbouring tiles in pixels of the LR image. More overlap hides "
    "the edges of tiles better and takes longer.",
)

LR_IMAGE = io.Image.Input(
    "lr_image",
    optional=True,
    tooltip="The LR image. Needed only if the latent does not carry it, e.g. after Load Latent "
    "or VAE Encode.",
)

LR_CONSISTENCY = io.Boolean.Input(
    "lr_consistency",
    default=False,
    optional=True,
    tooltip="Corrects the result so that downscaling it (bicubic with antialiasing) gives the LR "
    "image again. This also brings back noise of the LR image.",
)

WRAP = io.Combo.Input(
    "wrap",
    options=_CHOICES["wrap"],
    default="none",
    optional=True,
    tooltip="Avoids a seam in pictures that continue at the opposite edge. 'x': left and right "
    "(360-degree panoramas); 'y': top and bottom; 'both': seamless textures.",
)

FACTOR = io.Float.Input(
    "factor",
    default=float(SCALE),
    min=1.0,
    max=float(LARGEST_FACTOR),
    step=0.05,
    optional=True,
    tooltip="Factor for width and height. The models upscale x4. Below 4, the x4 result is "
    "downscaled (a factor of 1 cleans up the image at its own size). Above 4, a second pass is "
    "added automatically, which takes longer.",
)

LONGEST_SIDE = io.Int.Input(
    "longest_side",
    default=0,
    min=0,
    max=_MAX_SIDE,
    optional=True,
    tooltip="Longer side of the result in pixels, e.g. 3840; overrides factor. 0: use factor. "
    "Must be 1 to 16 times the longer side of the image.",
)

MASK = io.Mask.Input(
    "mask",
    optional=True,
    tooltip="1: regenerate; 0: keep the pre-upsampled image. A mask may have any size, but needs "
    "the aspect ratio of the LR image. Connect one mask for all images, or one for each.",
)

FEATHER = io.Int.Input(
    "feather",
    default=DEFAULT_FEATHER,
    min=0,
    max=_MAX_FEATHER,
    optional=True,
    tooltip="Width of the transition at the edges of the mask, in pixels of the LR image.",
)

LR_PSNR = io.Float.Output(
    "lr_psnr",
    display_name="LR-PSNR",
    tooltip="PSNR in dB between the LR image and the result, downscaled to the size of the LR "
    "image. Computed before rounding to 8 bits; mean over a batch. At most 100.",
)


def require_choices(**values: str) -> None:
    """Check values of combo widgets in `execute`, because ComfyUI does not validate linked inputs.

    Raises:
        ValueError: a value is not one of its widget's options.
    """
    if (problem := check_choices(**values)) is not True:
        raise ValueError(problem)


def check_choices(**values: str | None) -> bool | str:
    """Check values of combo widgets in `validate_inputs`, where linked inputs are None.

    Returns:
        True, or an error message for the first value that is not one of its widget's options.
    """
    for widget, value in values.items():
        if value is not None and value not in _CHOICES[widget]:
            choices = ", ".join(_CHOICES[widget])
            return f"{widget}: {value!r} is unknown, choose one of: {choices}"
    return True
