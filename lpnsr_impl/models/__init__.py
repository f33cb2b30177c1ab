"""The three networks of the method: VQ-f4 autoencoder, denoiser and noise predictor."""

from .autoencoder import Autoencoder
from .unet import Denoiser, NoisePredictor, UNet

__all__ = ["Autoencoder", "Denoiser", "NoisePredictor", "UNet"]
