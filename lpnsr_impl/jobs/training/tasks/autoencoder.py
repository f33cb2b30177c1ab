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
from .task import IMAGE_LOSSES, Losses, Task, figures_of

COMMITMENT = 0.25
"""Weight of the commitment loss beside the codebook loss (VQ-VAE, beta)."""
FITTED_ON = 48
"""Crops whose statistics become scales and shifts, and whose latents codes."""


class AutoencoderTask(Task):
    """VQ autoencoder: reconstruction, and codes that follow the latents."""

    network: Autoencoder
    taught = False
    uses = IMAGE_LOSSES | {"codebook"}
    options = frozenset({"fit_codes"})
    figures = ("l1", "minus_psnr", "code")

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        if not config.loss.codebook:
            self.network.quantize.requires_grad_(False)

    def prepare(self, crops: Crops) -> None:
        """Fit what stands for the norms of the file that it starts from, and codes, if asked."""
        init = self.config.networks.init
        if init and not self.network.config.norm_groups:
            given = load_autoencoder(find_weights(init))
            if given.config.norm_groups:
                fix_norms(given, self.network, (crops[i]["hr"][None] for i in range(FITTED_ON)))
        if self.config.fit_codes:
            pictures = (crops[i]["hr"][None] for i in range(FITTED_ON))
            fit_codes(self.network, pictures, self.config.seed)

    def forward(self, batch: Sample) -> Losses:
        """Encode, quantise (straight through), decode."""
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
        """Error of the reconstruction, and of codes from latents."""
        assert isinstance(network, Autoencoder)
        z = network.encode(batch["hr"])
        image = network.decode(z)
        return {
            **figures_of(image, batch["hr"]),
            "code": float(F.mse_loss(network.quantize(z), z)),
        }, image
