"""The networks of a family as files give them, and one picture through them."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from spandrel import ImageModelDescriptor, ModelLoader
from torch import Tensor

from ..config import PredictorMode, Wrap
from ..files.checkpoints import check_family, load_autoencoder, load_denoiser, load_noise_predictor
from ..files.folders import find_weights
from ..method.sampler import ALL_ON, switches_for
from ..method.schedule import Schedule
from ..models import Autoencoder, Denoiser, NoisePredictor
from ..pictures.color import COLOR_FIXES
from ..pictures.images import SMALLEST_MODEL_INPUT, reflect_pad, to_pm1
from ..pictures.tiling import DEFAULT_OVERLAP, LARGEST_TILE, TilePlan, apply_tiled, plan_tiles
from ..pictures.wrap import continued, from_model, upsampled
from .pipeline import decode_latent, encode_start, run_chain

BICUBIC = "bicubic"


@dataclass(frozen=True)
class Method:
    """One way to upscale: a row of a table.

    `start` is "bicubic" or the name of an upscale model's file. Without `steps` the start is the
    result.
    """

    name: str
    start: str = BICUBIC
    steps: int = 4
    predictor_on: Mapping[int, bool] = field(default_factory=lambda: dict(ALL_ON))
    predictor_mode: PredictorMode = "sample"
    color_fix: str = "wavelet"
    seed: int = 12345


@dataclass
class Family:
    """Autoencoder, denoiser, noise predictor (or none), and upscale models by file name."""

    autoencoder: Autoencoder
    denoiser: Denoiser
    noise_predictor: NoisePredictor | None
    upscale_models: dict[str, ImageModelDescriptor[Any]]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    tile: int = LARGEST_TILE  # in LR pixels

    @torch.no_grad()
    def start(
        self, lr: Tensor, start: str, plan: TilePlan | None = None, wrap: Wrap = "none"
    ) -> Tensor:
        """y0-hat, in the tiles of the chain. [1,3,h,w] -> [1,3,4h,4w], both in [0,1]"""
        if start == BICUBIC:
            return upsampled(lr, wrap)
        model = self.upscale_models[start]
        whole = wrap == "none" and (plan is None or len(plan) == 1)
        x = lr if whole or plan is None else continued(lr, *plan.size, wrap=wrap)
        y = apply_tiled(lambda x: _run(model, x), [x], plan, output_scale=model.scale)
        return from_model(y, model.scale, *lr.shape[2:], wrap=wrap).clamp(0, 1)

    @torch.no_grad()
    def upscale(self, lr: Tensor, method: Method, wrap: Wrap = "none") -> tuple[Tensor, float]:
        """One picture.

        Args:
            lr: [1,3,h,w] in [0,1].
            method: how.
            wrap: axes in which the picture goes on periodically.

        Returns:
            [1,3,4h,4w] in [0,1], and seconds, those of reading and writing files left out.
        """
        lr = lr.to(self.device)
        began = time.perf_counter()
        plan = self._plan(lr, wrap)
        x = self.start(lr, method.start, plan, wrap)
        if method.steps:
            y0 = encode_start(self.autoencoder, x, plan.size, plan, wrap=wrap)
            x0 = run_chain(
                self.denoiser,
                self.noise_predictor,
                Schedule(**vars(self.denoiser.schedule)),
                y0,
                to_pm1(lr),
                seed=method.seed,
                steps=method.steps,
                predictor_on=switches_for(
                    self.denoiser.schedule.num_timesteps, method.predictor_on
                ),
                predictor_mode=method.predictor_mode,
                plan=plan,
                wrap=wrap,
            )
            fix = COLOR_FIXES[method.color_fix]
            codes = self.denoiser.predicts_codes
            x = decode_latent(
                self.autoencoder, x0, to_pm1(lr), fix, plan, wrap=wrap, quantize=codes
            )
        return x.clamp(0, 1).cpu(), time.perf_counter() - began

    def _plan(self, lr: Tensor, wrap: Wrap) -> TilePlan:
        """As the nodes' automatic tiles, with enough memory."""
        config = self.denoiser.config
        multiple, step = config.size_multiple, config.tile_multiple
        tile = max(self.tile // step, 1) * step
        h, w = config.padded(*lr.shape[2:], wrap=wrap)
        return plan_tiles(h, w, tile, min(DEFAULT_OVERLAP, tile // 2), multiple, least=step)


def load_family(
    autoencoder: str,
    denoiser: str,
    noise_predictor: str,
    upscale_models: list[str],
    *,
    device: str = "cpu",
    tile: int = LARGEST_TILE,
) -> Family:
    """Load files, by path or by the name of a bundled one.

    Args:
        autoencoder, denoiser: files.
        noise_predictor: file, or "none".
        upscale_models: files of any architecture that spandrel knows.
        device: where they run.
        tile: largest tile, in LR pixels.

    Raises:
        FileNotFoundError: a file is not there.
        UnsupportedCheckpointError: a file is not what it should be.
        ValueError: the networks are of different families, or an upscale model is not for RGB.
    """
    predictor = None
    if noise_predictor != "none":
        predictor = load_noise_predictor(find_weights(noise_predictor))
    family = Family(
        load_autoencoder(find_weights(autoencoder)),
        load_denoiser(find_weights(denoiser)),
        predictor,
        {Path(name).name: _load_upscale_model(find_weights(name)) for name in upscale_models},
        torch.device(device),
        tile,
    )
    for network in (family.autoencoder, family.denoiser, predictor):
        if network is not None:
            network.to(device)
    for model in family.upscale_models.values():
        model.to(family.device)
    check_family(family.autoencoder, family.denoiser, family.noise_predictor)
    return family


def _run(model: ImageModelDescriptor[Any], x: Tensor) -> Tensor:
    """[1,3,h,w] -> [1,3,s*h,s*w]"""
    h, w = x.shape[2:]
    y = model(reflect_pad(x, max(h, SMALLEST_MODEL_INPUT), max(w, SMALLEST_MODEL_INPUT)))
    return y[:, :, : model.scale * h, : model.scale * w]


def _load_upscale_model(path: Path) -> ImageModelDescriptor[Any]:
    model = ModelLoader("cpu").load_from_file(str(path))
    if not isinstance(model, ImageModelDescriptor) or model.input_channels != 3:
        raise ValueError(f"{path.name} is no upscale model for RGB pictures.")
    return model.eval()
