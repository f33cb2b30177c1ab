"""Faster implementations of layers, chosen once when a network is loaded.

A layer is replaced by assigning a subclass of its own class to `__class__`, so its weights, state
dict keys, hooks and ComfyUI's patches are kept. `models` does not depend on this package,
and training uses only `train_on_cpu`.
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
    """Replace layers of a network by faster ones for inference. Call it after `set_precision`.

    Args:
        network: network with loaded weights, on any device. A compiled network stays compiled.
        device: device that the network will run on.
        compiled: whether to compile the network with `torch.compile` at the first run of each input
            size.

    Raises:
        RuntimeError: torch.compile does not work on the device.
    """
    restore(network)
    if device.type == "cpu":
        # Networks on GPUs stay in NCHW, because GroupNorm has no channels-last kernel for GPUs.
        network.to(memory_format=torch.channels_last)
    if compiled:
        check_compiler(device)
        compile_network(network)
        return
    activate_in_place(network)
    if device.type == "cpu":
        accelerate_on_cpu(network)


def restore(network: nn.Module) -> None:
    """Undo `accelerate`, e.g. before the network moves to another device."""
    for module in network.modules():
        while type(module).__module__.startswith(__name__):
            module.__class__ = type(module).__bases__[-1]


def activate_in_place(network: nn.Module) -> None:
    """Make each SiLU after a norm work in place, since nothing else uses the norm's output."""
    for module in network.modules():
        if isinstance(module, nn.Sequential) and isinstance(module[0], nn.GroupNorm):
            silu = module[1]
        else:
            silu = getattr(module, "silu", None)
        if isinstance(silu, nn.SiLU):
            silu.inplace = True
