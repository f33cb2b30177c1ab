"""Fits the codebook of an autoencoder to its latents with k-means."""

from collections.abc import Iterable

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

from ...models import Autoencoder


@torch.no_grad()
def fit_codes(autoencoder: Autoencoder, pictures: Iterable[Tensor], seed: int) -> None:
    """Set the codes to the k-means centroids of the pictures' latents.

    Args:
        autoencoder: only its codebook changes.
        pictures: [B,3,H,W] each, in [-1,1].
        seed: seed for choosing the initial centroids among the latents.

    Raises:
        ValueError: there are fewer latents than codes.
    """
    codes = autoencoder.quantize.embedding.weight
    latents = torch.cat([autoencoder.encode(x).movedim(1, -1).flatten(0, 2) for x in pictures])
    if len(latents) < len(codes):
        raise ValueError(
            f"Got {len(latents)} latents for {len(codes)} codes, expected at least as many latents "
            "as codes. Use larger crops, or set fit_codes to false."
        )
    x = latents.cpu().double().numpy()
    initial = np.random.default_rng(seed).choice(len(x), len(codes), replace=False)
    # With missing="warn", the centroid of an empty cluster keeps its position.
    centroids, _ = kmeans2(x, x[initial], iter=8, minit="matrix", missing="warn")
    codes.copy_(torch.from_numpy(centroids))
