"""How much memory a network's activations need, from measurements.

`python -m tests.bench.memory` prints them, in layers of the first level in fp32: up to 7.2 for the
autoencoder and 37.1 for the U-Net. A quarter is added for workspaces of the kernels, and what norms
need, which run in fp32 in any precision.
"""

from ..lpnsr_impl.models import Autoencoder, Denoiser
from .host import Managed

_AUTOENCODER_LAYERS = 9
_UNET_LAYERS = 46
_NORM_BYTES = 8  # input and output of one norm, for each value


def autoencoder_activations(managed: Managed[Autoencoder], height: int, width: int) -> float:
    """Bytes to encode to, or decode from, one image of `height` x `width`."""
    values = managed.network.config.level_channels[0] * height * width
    return values * (_AUTOENCODER_LAYERS * managed.dtype_bytes + _NORM_BYTES)


def unet_activations(managed: Managed[Denoiser], h: int, w: int) -> float:
    """Bytes for one step of the U-Net on an `h` x `w` latent."""
    values = managed.network.config.model_channels * h * w
    return values * (_UNET_LAYERS * managed.dtype_bytes + _NORM_BYTES)
