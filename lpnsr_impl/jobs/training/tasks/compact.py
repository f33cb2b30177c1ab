"""Training of PreSet-B's start."""

from torch import Tensor, nn

from ....pictures.images import bicubic_upsample, to_01, to_pm1
from ..data import Sample
from .task import IMAGE_LOSSES, Losses, Task, figures_of


class CompactTask(Task):
    """A regressor for PreSet-B's start, in an architecture that spandrel loads."""

    uses = IMAGE_LOSSES
    figures = ("l1", "minus_psnr", "bicubic_l1")

    def forward(self, batch: Sample) -> Losses:
        """Image losses."""
        return self.image_losses(self._upscale(self.network, batch), batch)

    def _upscale(self, network: nn.Module, batch: Sample) -> Tensor:
        return to_pm1(network(to_01(batch["lr"])))

    def validate(self, network: nn.Module, batch: Sample) -> tuple[dict[str, float], Tensor]:
        """Error of the picture, and of bicubic for comparison."""
        image = self._upscale(network, batch)
        bicubic = figures_of(bicubic_upsample(batch["lr"]), batch["hr"])
        figures = figures_of(image, batch["hr"])
        return {**figures, "bicubic_l1": bicubic["l1"]}, image
