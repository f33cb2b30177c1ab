"""Codes of an autoencoder, fitted anew to its latents."""

from collections.abc import Iterable

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

from ...models import Autoencoder


@torch.no_grad()
def fit_codes(autoencoder: Autoencoder, pictures: Iterable[Tensor], seed: int) -> None:
    """Set the codes to the means of k-means over the latents of pictures.

    Args:
        autoencoder: only its codes change.
        pictures: [B,3,H,W] each, in [-1,1].
        seed: of the latents that k-means begins with.

    Raises:
        ValueError: the pictures have fewer latents than there are codes.
    """
    codes = autoencoder.quantize.embedding.weight
    latents = torch.cat([autoencoder.encode(x).movedim(1, -1).flatten(0, 2) for x in pictures])
    if len(latents) < len(codes):
        raise ValueError(
            f"{len(latents)} latents for {len(codes)} codes, expected as many or more. Give larger "
            "crops, or set fit_codes to false."
        )
    x = latents.cpu().double().numpy()
    first = np.random.default_rng(seed).choice(len(x), len(codes), replace=False)
    # a mean that no latent is near stays as it is, the latent that it began with
    means, _ = kmeans2(x, x[first], iter=8, minit="matrix", missing="warn")
    codes.copy_(torch.from_numpy(means))
