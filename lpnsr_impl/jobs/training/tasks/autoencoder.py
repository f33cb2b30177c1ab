"""Training of the autoencoder."""

import torch.nn.functional as F
from torch import Tensor, nn

from ....files.checkpoints import load_autoencoder
from ....files.folders import find_weights
from ....models import Autoencoder
from ..codes import fit_codes
from ..config import TrainConfig
from ..data import Crops, Sample
from ..fixed_norms import fix_norms
from .task import IMAGE_LOSSES, Losses, Task, measure

COMMITMENT = 0.25
"""Weight of the commitment loss relative to the codebook loss (beta of VQ-VAE)."""
FITTED_ON = 48
"""Number of crops from which initial codes and fixed norms are computed."""


class AutoencoderTask(Task):
    """Trains a VQ autoencoder with image losses on its reconstruction, and the codebook loss."""

    network: Autoencoder
    accepts_teacher = False
    supported_losses = IMAGE_LOSSES | {"codebook"}
    supported_options = frozenset({"fit_codes"})
    metrics = ("l1", "minus_psnr", "code")

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        if not config.loss.codebook:
            self.network.quantize.requires_grad_(False)

    def prepare(self, crops: Crops) -> None:
        """Replace the norms of `networks.init` if `size.norm_groups` is 0, and fit the codes if
        `fit_codes` is set."""
        init = self.config.networks.init
        if init and not self.network.config.norm_groups:
            source = load_autoencoder(find_weights(init))
            if source.config.norm_groups:
                fix_norms(source, self.network, (crops[i]["hr"][None] for i in range(FITTED_ON)))
        if self.config.fit_codes:
            pictures = (crops[i]["hr"][None] for i in range(FITTED_ON))
            fit_codes(self.network, pictures, self.config.seed)

    def forward(self, batch: Sample) -> Losses:
        """Encode, quantise with a straight-through gradient, and decode."""
        hr = batch["hr"]
        z = self.network.encode(hr)
        z_q = self.network.quantize(z)
        image = self.network.decode(z + (z_q - z).detach(), quantize=False)
        terms = self.image_loss(image, hr)
        if self.config.loss.codebook:
            distance = F.mse_loss(z_q, z.detach()) + COMMITMENT * F.mse_loss(z, z_q.detach())
            terms["codebook"] = self.config.loss.codebook * distance
        return Losses(terms, fake=image, real=hr)

    def validate(self, network: nn.Module, batch: Sample) -> tuple[dict[str, float], Tensor]:
        """Measure the reconstruction. "code" is the squared error between latents and codes."""
        assert isinstance(network, Autoencoder)
        z = network.encode(batch["hr"])
        image = network.decode(z)
        return {
            **measure(image, batch["hr"]),
            "code": float(F.mse_loss(network.quantize(z), z)),
        }, image
