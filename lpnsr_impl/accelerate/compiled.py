"""Kernels made for a network by `torch.compile`."""

import weakref
from typing import Any

import torch
from torch import Tensor, nn

from ..models import Autoencoder, UNet

_MOST_SIZES = 128
"""Kernels of one function. More are not made: it runs without, and PyTorch warns of it."""


def compile_network(network: UNet | Autoencoder, backend: Any = "inductor") -> None:
    """Have torch.compile make kernels for a network, at its first run of each size of tile.

    Kernels for exact sizes are the faster ones, and tiles of a picture are all alike. They compute
    the plain layers; results differ by rounding.

    Args:
        network: in its precision. A copy of it would go on with this one's weights.
        backend: of torch.compile.
    """
    network.compiled = True
    if isinstance(network, Autoencoder):
        _compile(network.encoder, "forward", backend)
        _compile(network.decoder, "forward", backend)
    else:
        _compile(network, "apply_blocks", backend)


def _compile(module: nn.Module, name: str, backend: Any) -> None:
    """Compiles the class's function. A bound method would keep its module alive in a cycle, and
    the host waits for unused networks to go."""
    compiled = torch.compile(getattr(type(module), name), dynamic=False, backend=backend)
    reference = weakref.ref(module)

    def call(*args: Tensor) -> Tensor:
        from torch import _dynamo  # slow to import, and not needed without torch.compile

        # PyTorch's own limit is 8, shared by all networks that have the function.
        with _dynamo.config.patch(cache_size_limit=_MOST_SIZES):  # pyright: ignore[reportPrivateUsage]
            return compiled(reference(), *args)

    setattr(module, name, call)


def check_compiler(device: torch.device) -> None:
    """Compile something small.

    Raises:
        RuntimeError: torch.compile does not work for this device, with the reason.
    """
    try:
        torch.compile(lambda x: x.exp() + 1)(torch.zeros(64, device=device))
    except Exception as e:
        needs = "a C++ compiler" if device.type == "cpu" else "Triton, and a C compiler"
        cause = getattr(e, "inner_exception", e)
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise RuntimeError(
            f"torch.compile does not work here for {device.type}: {reason}. It needs "
            f"{needs}; or switch torch_compile off."
        ) from e
