"""The three networks of the method: VQ-f4 autoencoder, denoiser and noise predictor."""

from .autoencoder import Autoencoder
from .compiled import check_compiler, compile_network
from .precision import set_precision
from .unet import Denoiser, NoisePredictor, UNet

__all__ = [
    "Autoencoder",
    "Denoiser",
    "NoisePredictor",
    "UNet",
    "check_compiler",
    "compile_network",
    "set_precision",
]
