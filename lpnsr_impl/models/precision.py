"""Weights and activations in half precision."""

import torch
from torch import nn

from .autoencoder import Autoencoder
from .unet import UNet


def set_precision(
    network: UNet | Autoencoder, weight_dtype: torch.dtype, compute_dtype: torch.dtype
) -> None:
    """Cast the weights of a network, and choose the dtype of its activations.

    Norms and codebook stay fp32, as they are used. Weights of another dtype than the activations
    need `operations` that cast them.
    """
    for module in network.modules():
        if not isinstance(module, (nn.GroupNorm, nn.Embedding)):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(weight_dtype)
    network.compute_dtype = compute_dtype
