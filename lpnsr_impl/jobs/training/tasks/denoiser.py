"""Training of the denoiser with ResShift's objective."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....models import Denoiser
from ..config import TrainConfig
from ..data import Sample
from ..random_inference import RandomInference
from .latent_task import LatentTask
from .task import IMAGE_LOSSES, Losses, measure


class DenoiserTask(LatentTask):
    """Trains a denoiser to predict x0 from x_t ~ q(x_t | x0, y0), with t uniform over 1...T.

    With probability `rollout`, a training step uses rollouts instead: the network runs all sampling
    steps, and image losses train it at the last one (t = 1), so that it learns to correct the
    errors of the earlier sampling steps.
    """

    network: Denoiser
    supported_losses = IMAGE_LOSSES | {"latent"}
    supported_options = frozenset({"rollout"})
    metrics = ("l1", "minus_psnr", "latent", *(f"latent_t{t}" for t in range(1, 5)))

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.check_crops(self.network)
        if self.has_image_losses != (config.rollout > 0):
            no = "" if self.has_image_losses else "no "
            raise ValueError(
                f"rollout is {config.rollout} and there are {no}image losses. A denoiser's image "
                "losses are computed from rollouts only. Set both or neither."
            )
        self.inference = None
        if config.rollout:
            self.inference = RandomInference(config.networks, self.autoencoder_model, self.model)

    def forward(self, batch: Sample) -> Losses:
        """Compute the squared error of x0_pred, or the image losses of rollouts."""
        if self._is_rollout_step(batch):
            return self._rollout_losses(batch)
        x0, y0 = self.encode_latents(batch, self.target(batch))
        t = batch["index"] % self.schedule.num_timesteps + 1
        x0_pred = self._predict(self.network, batch, x0, y0, t)
        return Losses({"latent": self.config.loss.latent * F.mse_loss(x0_pred, x0)})

    def _is_rollout_step(self, batch: Sample) -> bool:
        """Choose at random whether a training step uses rollouts. All processes choose the same."""
        step = int(batch["index"][0]) // self.config.batch
        rng = np.random.default_rng([self.config.seed, step, 7])
        return bool(rng.random() < self.config.rollout)

    def _rollout_losses(self, batch: Sample) -> Losses:
        assert self.inference is not None
        latents: list[Tensor] = []
        group_size = self.config.together
        first_indices = batch["index"][::group_size]
        for index, lr in zip(first_indices, batch["lr"].split(group_size), strict=True):
            rng = np.random.default_rng([self.config.seed, int(index), 8])
            latents.append(self.inference.run(self._denoise_last_with_grad, lr, rng))
        image = self.decode_quantized(torch.cat(latents))
        return self.image_losses(image, batch)

    def _denoise_last_with_grad(self, x: Tensor, t_index: int, lr: Tensor) -> Tensor:
        """Run the network, with gradients only at t = 1 (t_index 0)."""
        with torch.set_grad_enabled(t_index == 0 and torch.is_grad_enabled()):
            return self.network(x, t_index, lr)

    def _predict(
        self, network: nn.Module, batch: Sample, x0: Tensor, y0: Tensor, t: Tensor
    ) -> Tensor:
        x_t = self.diffuse(batch, x0, y0, t)
        return network(self.scale_inputs(x_t, t), t - 1, batch["lr"])

    def validate(self, network: nn.Module, batch: Sample) -> tuple[dict[str, float], Tensor]:
        """Measure the error of x0_pred at each t, the mean of the errors, and the sampled image."""
        x0, y0 = self.encode_latents(batch)
        metrics: dict[str, float] = {}
        for step in range(1, self.schedule.num_timesteps + 1):
            t = torch.full_like(batch["index"], step)
            x0_pred = self._predict(network, batch, x0, y0, t)
            metrics[f"latent_t{step}"] = float(F.mse_loss(x0_pred, x0))
        metrics["latent"] = sum(metrics.values()) / len(metrics)
        assert isinstance(network, Denoiser)
        image = self.autoencoder.decode(self.run_chain(network, None, batch, y0))
        return {**metrics, **measure(image, batch["hr"])}, image
