"""Compile networks with `torch.compile`."""

import weakref
from typing import Any

import torch
from torch import Tensor, nn

from ..models import Autoencoder, UNet

_MAX_SIZES = 128
"""Maximum number of input sizes for which a function is compiled. For further sizes, PyTorch runs
the function uncompiled and logs a warning."""


def compile_network(network: UNet | Autoencoder, backend: Any = "inductor") -> None:
    """Set up a network to be compiled at its first run with each tile size.

    Kernels for static shapes are faster than dynamic ones, and all tiles of an image have the same
    size. Results differ from the uncompiled network by rounding errors.

    Args:
        network: network in its final precision. Do not copy it afterwards: the copy would use the
            weights of the original.
        backend: backend of `torch.compile`.
    """
    network.compiled = True
    if isinstance(network, Autoencoder):
        _compile(network.encoder, "forward", backend)
        _compile(network.decoder, "forward", backend)
    else:
        _compile(network, "apply_blocks", backend)


def _compile(module: nn.Module, name: str, backend: Any) -> None:
    """Replace a method of a module by its compiled version.

    The function of the class is compiled, not the bound method: a bound method would form a
    reference cycle, and ComfyUI frees networks by reference counting.
    """
    compiled = torch.compile(getattr(type(module), name), dynamic=False, backend=backend)
    reference = weakref.ref(module)

    def call(*args: Tensor) -> Tensor:
        from torch import _dynamo  # imported only when needed, since the import is slow

        # PyTorch's default limit is 8 sizes for all networks of a class together.
        with _dynamo.config.patch(cache_size_limit=_MAX_SIZES):  # pyright: ignore[reportPrivateUsage]
            return compiled(reference(), *args)

    setattr(module, name, call)


def check_compiler(device: torch.device) -> None:
    """Check that `torch.compile` works, by compiling a small function.

    Raises:
        RuntimeError: `torch.compile` does not work on the device; the message gives the reason.
    """
    try:
        torch.compile(lambda x: x.exp() + 1)(torch.zeros(64, device=device))
    except Exception as e:
        needs = "a C++ compiler" if device.type == "cpu" else "Triton and a C compiler"
        cause = getattr(e, "inner_exception", e)
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise RuntimeError(
            f"torch.compile does not work on this computer for {device.type}: {reason}. Install "
            f"{needs}, or switch torch_compile off."
        ) from e
