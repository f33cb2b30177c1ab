"""Trains the upscale model of PreSet-B, whose output is the start of the diffusion."""

from torch import Tensor, nn

from ....pictures.images import bicubic_upsample, to_01, to_pm1
from ..data import Sample
from .task import IMAGE_LOSSES, Losses, Task, measure


class CompactTask(Task):
    """Trains the upscale model that PreSet-B starts from, a Real-ESRGAN Compact network."""

    supported_losses = IMAGE_LOSSES
    metrics = ("l1", "minus_psnr", "bicubic_l1")

    def forward(self, batch: Sample) -> Losses:
        """Upscale LR and compute the image losses."""
        return self.image_losses(self._upscale(self.network, batch), batch)

    def _upscale(self, network: nn.Module, batch: Sample) -> Tensor:
        return to_pm1(network(to_01(batch["lr"])))

    def validate(self, network: nn.Module, batch: Sample) -> tuple[dict[str, float], Tensor]:
        """Measure the upscaled image, and the L1 of bicubic upsampling for comparison."""
        image = self._upscale(network, batch)
        bicubic = measure(bicubic_upsample(batch["lr"]), batch["hr"])
        metrics = measure(image, batch["hr"])
        return {**metrics, "bicubic_l1": bicubic["l1"]}, image
