"""LPNSR (Huang et al., arXiv 2603.21045) in plain PyTorch: networks, noise schedule and sampling.

Each package uses only the packages listed before it: `method` (noise schedule and sampling loop),
`pictures` (sizes, colours, masks), `models` (the networks), `accelerate` (faster layers), `files`
(checkpoints and downloads), `engine` (runs the networks on images of any size), `jobs` (upscale,
train, evaluate). None of them imports ComfyUI.
"""

from .files.checkpoints import (
    check_family,
    load_autoencoder,
    load_denoiser,
    load_noise_predictor,
)
from .files.weights import UnsupportedCheckpointError
from .method.sampler import sample, sample_once
from .method.schedule import Schedule
from .pictures.color import adain_color_fix, wavelet_color_fix

__all__ = [
    "Schedule",
    "UnsupportedCheckpointError",
    "adain_color_fix",
    "check_family",
    "load_autoencoder",
    "load_denoiser",
    "load_noise_predictor",
    "sample",
    "sample_once",
    "wavelet_color_fix",
]
