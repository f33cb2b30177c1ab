"""How much memory a network's activations need, from measurements.

In layers of the first level: on a GPU `python -m tests.bench gpu` counts up to 6 for the released
autoencoder and 21 for the U-Nets. On a CPU, where freed memory is kept in pieces,
`python -m tests.bench.memory` measures more: up to 8.5 and 27, once 16 for the lite decoder.
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
