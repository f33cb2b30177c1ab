"""The autoencoder's attention where a device holds the whole [h*w,h*w] matrix at once."""

import torch
from torch import Tensor

from ..models import Autoencoder
from ..models.autoencoder import Attention

MATERIALIZING = ("mps", "privateuseone")
"""Types of devices that do: Metal's and DirectML's."""

SLICE_BYTES = 1 << 28
"""Of the matrix of one slice in fp32."""


class SlicedAttention(Attention):
    """Some queries at a time."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """softmax(q k^T C^-1/2) v, all [B,1,h*w,C]"""
        rows = max(1, SLICE_BYTES // (4 * len(k) * k.shape[2]))
        attend = super().attend
        return torch.cat([attend(part, k, v) for part in q.split(rows, dim=2)], dim=2)


def slice_attention(network: Autoencoder) -> None:
    """Use it in place of the autoencoder's own."""
    for module in network.modules():
        if type(module) is Attention:
            module.__class__ = SlicedAttention


def attention_bytes(network: Autoencoder, positions: int) -> int:
    """Scores and their softmax that the attention of a network holds at once, in fp32.

    Args:
        network: as `accelerate` has left it.
        positions: pixels of the latent, h*w.
    """
    if not any(type(module) is SlicedAttention for module in network.modules()):
        return 0  # kernels that never hold them
    return 2 * min(SLICE_BYTES, 4 * positions**2)
