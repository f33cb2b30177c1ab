"""LPNSR in plain PyTorch: networks, schedule and the 1 to 4 step chain (Huang et al., "LPNSR").

Where to find what: equations in `schedule`, Algorithm 2 in `sampler`, networks in `models`, files
in `checkpoints`. Nothing here imports ComfyUI.
"""

from .checkpoints import (
    check_family,
    load_autoencoder,
    load_denoiser,
    load_noise_predictor,
)
from .color import adain_color_fix, wavelet_color_fix
from .files import UnsupportedCheckpointError
from .sampler import sample, sample_once
from .schedule import Schedule

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
