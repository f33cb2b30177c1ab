"""Weights and activations in half precision."""

import torch
from torch import nn

from ..models import Autoencoder, UNet


def has_fast_bf16(device: torch.device) -> bool:
    """Whether it is a CPU that multiplies in bf16 itself (AVX-512-BF16, AMX).

    Whole pictures are three times as fast as in fp32 there; other CPUs only emulate it.
    """
    if device.type != "cpu":
        return False
    is_supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # since PyTorch 2.6
    return is_supported is not None and is_supported()


def set_precision(
    network: UNet | Autoencoder, weight_dtype: torch.dtype, compute_dtype: torch.dtype
) -> None:
    """Cast the weights of a network, and choose the dtype of its activations.

    Norms and position biases get the dtype of the activations, which their kernels want; sums of
    norms are fp32 in them all the same. The codebook stays fp32, as it is searched. Weights of
    another dtype than the activations need `operations` that cast them.
    """
    for module in network.modules():
        if isinstance(module, nn.Embedding):
            continue
        own = isinstance(module, (nn.Conv2d, nn.Linear))
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(weight_dtype if own else compute_dtype)
    network.compute_dtype = compute_dtype
