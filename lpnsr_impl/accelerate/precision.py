"""Half precision for weights and activations."""

import torch
from torch import nn

from ..models import Autoencoder, UNet


def has_fast_bf16(device: torch.device) -> bool:
    """Return whether the device is a CPU with bf16 instructions (AVX-512-BF16, AMX).

    On such a CPU, bf16 is about three times as fast as fp32. Other CPUs only emulate bf16.
    """
    if device.type != "cpu":
        return False
    is_supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # exists since PyTorch 2.6
    return is_supported is not None and is_supported()


def set_precision(
    network: UNet | Autoencoder, weight_dtype: torch.dtype, compute_dtype: torch.dtype
) -> None:
    """Cast the weights of a network and set the dtype of its activations.

    Norms and position biases get the dtype of the activations, because their kernels require it;
    norms still accumulate in fp32. The codebook stays in fp32, because the nearest codes are
    searched in fp32. If `weight_dtype` differs from `compute_dtype`, the network must have been
    built with `operations` that cast weights.
    """
    for module in network.modules():
        if isinstance(module, nn.Embedding):
            continue
        own = isinstance(module, (nn.Conv2d, nn.Linear))
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(weight_dtype if own else compute_dtype)
    network.compute_dtype = compute_dtype
