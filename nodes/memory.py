"""How much memory a network's activations need, fitted to measurements: `python -m
tests.bench.memory`."""

from ..lpnsr_impl.models import Autoencoder, Denoiser
from .host import Managed

_AUTOENCODER_LAYERS = 9.0
_UNET_LAYERS = 40.0


def autoencoder_activations(managed: Managed[Autoencoder], height: int, width: int) -> float:
    """Bytes to encode to, or decode from, one image of `height` x `width`: so many layers of the
    first level."""
    return (
        _AUTOENCODER_LAYERS
        * managed.network.config.level_channels[0]
        * height
        * width
        * managed.dtype_bytes
    )


def unet_activations(managed: Managed[Denoiser], h: int, w: int) -> float:
    """Bytes for one step of the U-Net on an `h` x `w` latent: so many layers of the first level,
    padding included."""
    config = managed.network.config
    padded = 1
    for size in (h, w):
        padded *= -(-size // config.size_multiple) * config.size_multiple
    return _UNET_LAYERS * config.model_channels * padded * managed.dtype_bytes
