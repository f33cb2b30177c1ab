"""Kernels made for a network by `torch.compile`."""

from typing import Any

import torch

from .autoencoder import Autoencoder
from .unet import UNet


def compile_network(network: UNet | Autoencoder, backend: Any = "inductor") -> None:
    """Have torch.compile make kernels for a network, at its first run of each size of tile.

    Kernels for exact sizes are the faster ones, and tiles of a picture are all alike. They compute
    the plain layers, without the shortcuts of `convolution`; results differ by rounding.

    Args:
        network: in its precision.
        backend: of torch.compile.
    """
    options = {"dynamic": False, "backend": backend}
    if isinstance(network, Autoencoder):
        network.encoder.compile(**options)
        network.decoder.compile(**options)
    else:
        network.apply_blocks = torch.compile(network.apply_blocks, **options)


def check_compiler(device: torch.device) -> None:
    """Compile something small.

    Raises:
        RuntimeError: torch.compile does not work for this device, with the reason.
    """
    try:
        torch.compile(lambda x: x.exp() + 1)(torch.zeros(64, device=device))
    except Exception as e:
        needs = "a C++ compiler" if device.type == "cpu" else "Triton, and a C compiler"
        reason = str(e).strip().splitlines()[0]
        raise RuntimeError(
            f"torch.compile does not work here for {device.type}: {reason}. It needs "
            f"{needs}; or switch torch_compile off."
        ) from e
