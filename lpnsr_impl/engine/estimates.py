"""How much memory a network's activations need, from measurements.

`python -m tests.bench.memory` prints them, in layers of the first level in fp32: up to 7.2 for the
autoencoder and 37.1 for the U-Net. A quarter is added for workspaces of the kernels.
"""

from ..accelerate import attention_bytes
from ..config import SCALE
from ..models import Autoencoder, UNet

_AUTOENCODER_LAYERS = 9
_UNET_LAYERS = 46


def autoencoder_activations(autoencoder: Autoencoder, h: int, w: int) -> float:
    """Bytes to encode to, or decode from, one latent of h x w."""
    values = autoencoder.config.level_channels[0] * SCALE * h * SCALE * w
    layers = values * _AUTOENCODER_LAYERS * autoencoder.compute_dtype.itemsize
    return layers + attention_bytes(autoencoder, h * w)


def unet_activations(unet: UNet, h: int, w: int) -> float:
    """Bytes for one step of a U-Net on one latent of h x w."""
    values = unet.config.model_channels * h * w
    return values * _UNET_LAYERS * unet.compute_dtype.itemsize
