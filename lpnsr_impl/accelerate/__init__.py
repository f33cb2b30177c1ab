"""Faster ways to compute the same, put in place of layers once, when a network is loaded.

`models` knows nothing of them, and training uses `train_on_cpu` alone. A layer that is replaced
gets a subclass of its own class: weights, keys, hooks, copies and a host's patchers stay what they
were.
"""

import torch
from torch import nn

from ..models import Autoencoder, UNet
from .compiled import check_compiler, compile_network
from .cpu import accelerate_on_cpu, train_on_cpu
from .precision import has_fast_bf16, set_precision

__all__ = [
    "accelerate",
    "check_compiler",
    "has_fast_bf16",
    "restore",
    "set_precision",
    "train_on_cpu",
]


def accelerate(network: UNet | Autoencoder, device: torch.device, compiled: bool = False) -> None:
    """Choose how a network computes, for inference on a device, after `set_precision`.

    Args:
        network: loaded, wherever it is now; not compiled, or it stays so.
        device: where it will run.
        compiled: whether torch.compile makes the kernels, at the first run of each size.

    Raises:
        RuntimeError: torch.compile does not work on the device.
    """
    restore(network)
    if device.type == "cpu":
        # GPUs keep NCHW, the only layout that their GroupNorm has.
        network.to(memory_format=torch.channels_last)
    if compiled:
        check_compiler(device)
        compile_network(network)
        return
    activate_in_place(network)
    if device.type == "cpu":
        accelerate_on_cpu(network)


def restore(network: nn.Module) -> None:
    """Give all layers their own classes again, which another device may need."""
    for module in network.modules():
        while type(module).__module__.startswith(__name__):
            module.__class__ = type(module).__bases__[-1]


def activate_in_place(network: nn.Module) -> None:
    """Let each SiLU behind a norm overwrite what the norm has made for it alone."""
    for module in network.modules():
        if isinstance(module, nn.Sequential) and isinstance(module[0], nn.GroupNorm):
            silu = module[1]
        else:
            silu = getattr(module, "silu", None)
        if isinstance(silu, nn.SiLU):
            silu.inplace = True
