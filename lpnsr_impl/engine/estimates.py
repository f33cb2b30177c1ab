"""How much memory a network's activations need, from measurements.

`python -m tests.bench.memory` prints them, in layers of the first level in fp32: up to 7.2 for the
autoencoder and 37.1 for the U-Net. A quarter is added for workspaces of the kernels, and what norms
need, which run in fp32 in any precision.
"""

from ..config import SCALE
from ..models import Autoencoder, UNet

_AUTOENCODER_LAYERS = 9
_UNET_LAYERS = 46
_NORM_BYTES = 8  # input and output of one norm, for each value


def autoencoder_activations(autoencoder: Autoencoder, h: int, w: int) -> float:
    """Bytes to encode to, or decode from, one latent of h x w."""
    values = autoencoder.config.level_channels[0] * SCALE * h * SCALE * w
    return values * (_AUTOENCODER_LAYERS * autoencoder.compute_dtype.itemsize + _NORM_BYTES)


def unet_activations(unet: UNet, h: int, w: int) -> float:
    """Bytes for one step of a U-Net on one latent of h x w."""
    values = unet.config.model_channels * h * w
    return values * (_UNET_LAYERS * unet.compute_dtype.itemsize + _NORM_BYTES)
