"""The networks of a family as files give them, and one picture through them."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from spandrel import ImageModelDescriptor, ModelLoader
from torch import Tensor

from ..accelerate import accelerate, set_precision
from ..config import PredictorMode, Wrap
from ..files.checkpoints import check_family, load_autoencoder, load_denoiser, load_noise_predictor
from ..files.folders import find_weights
from ..method.sampler import ALL_ON
from ..models import Autoencoder, Denoiser, NoisePredictor
from ..pictures.images import SMALLEST_MODEL_INPUT
from ..pictures.picture import Picture
from ..pictures.target import Target
from ..pictures.tiling import DEFAULT_OVERLAP, LARGEST_TILE, apply_tiled, plan_tiles
from ..pictures.wrap import for_model, from_model
from .engine import Engine, Sampling, Start, made_start
from .memory import Memory, PlainMemory, Resident
from .passes import upscale
from .tiles import Tiling

logger = logging.getLogger(__name__)

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


@dataclass(frozen=True)
class _Residents:
    autoencoder: Resident[Autoencoder]
    denoiser: Resident[Denoiser]
    noise_predictor: Resident[NoisePredictor] | None


@dataclass
class Upscaler:
    """Upscales, by the networks of one family on one device.

    Attributes:
        autoencoder, denoiser, noise_predictor: on the device; the last may be None.
        upscale_models: for starts, by file name.
        device: of them all.
        tile: largest side of a tile, in LR pixels.
        memory: to plan with.
    """

    autoencoder: Autoencoder
    denoiser: Denoiser
    noise_predictor: NoisePredictor | None
    upscale_models: dict[str, ImageModelDescriptor[Any]]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    tile: int = LARGEST_TILE
    memory: Memory = field(default_factory=PlainMemory)

    @torch.no_grad()
    def upscale(
        self, lr: Picture, method: Method, wrap: Wrap = "none", target: Target | None = None
    ) -> Tensor:
        """Pictures in the size wanted.

        Args:
            lr: B pictures.
            method: how.
            wrap: axes in which they go on periodically.
            target: the size wanted; None for x4, as it is for a method without steps.

        Returns:
            [B,3,H,W] in [0,1] in main memory, or [B,4,H,W] with alpha.

        Raises:
            ValueError: the size can't be reached, or a result is not finite.
            MemoryError: the result does not fit, or not even the smallest tiles do.
        """
        start = self._start(method.start)
        if not method.steps:
            return made_start(lr.rgb, start, wrap).clamp(0, 1)
        predictor = self.noise_predictor
        networks = _Residents(
            Resident(self.autoencoder, self.device),
            Resident(self.denoiser, self.device),
            None if predictor is None else Resident(predictor, self.device),
        )
        sampling = Sampling(
            method.seed,
            method.steps,
            predictor_on=method.predictor_on,
            predictor_mode=method.predictor_mode,
        )
        engine = Engine(networks, self.memory, Tiling(self.tile))
        return upscale(
            engine, lr, start, sampling, color_fix=method.color_fix, target=target, wrap=wrap
        )[0]

    def _start(self, name: str) -> Start | None:
        """y0-hat by an upscale model, in tiles; None for bicubic."""
        if name == BICUBIC:
            return None
        model = self.upscale_models[name]

        def start(lr: Tensor, wrap: Wrap) -> Tensor:
            y = self._run(model, for_model(lr, wrap))
            return from_model(y, model.scale, *lr.shape[2:], wrap=wrap).clamp(0, 1)

        return start

    def _run(self, model: ImageModelDescriptor[Any], x: Tensor) -> Tensor:
        """[B,3,h,w] -> [B,3,s h,s w] in main memory, in smaller tiles where memory runs out."""
        tile, (h, w) = max(self.tile, SMALLEST_MODEL_INPUT), x.shape[2:]
        while True:
            overlap, least = min(DEFAULT_OVERLAP, tile // 2), min(tile, SMALLEST_MODEL_INPUT)
            plan = plan_tiles(h, w, tile, overlap, 1, least=least)
            try:
                return apply_tiled(
                    lambda tiles: model(tiles.to(self.device)),
                    [x],
                    plan,
                    output_scale=model.scale,
                    device=self.memory.result_device,
                )
            except (RuntimeError, MemoryError) as e:
                if not self.memory.is_out_of_memory(e):
                    raise
            # Out here nothing holds the failed run's tensors any more.
            self.memory.empty_cache()
            if tile <= SMALLEST_MODEL_INPUT:
                raise MemoryError(
                    f"Out of memory even with tiles of {tile}x{tile} pixels, the smallest for an "
                    "upscale model. Close other programs, or choose a smaller upscale model."
                )
            tile = max(tile // 2, SMALLEST_MODEL_INPUT)
            logger.warning("Out of memory; the upscale model goes on with tiles of %d.", tile)


def load_upscaler(
    autoencoder: str,
    denoiser: str,
    noise_predictor: str,
    upscale_models: list[str],
    *,
    device: str = "cpu",
    tile: int = LARGEST_TILE,
    dtype: torch.dtype = torch.float32,
    compiled: bool = False,
) -> Upscaler:
    """Load files, by path or by the name of a bundled one.

    Args:
        autoencoder, denoiser: files.
        noise_predictor: file, or "none".
        upscale_models: files of any architecture that spandrel knows.
        device: where they run.
        tile: largest tile, in LR pixels.
        dtype: of weights and activations.
        compiled: whether torch.compile makes the kernels.

    Raises:
        FileNotFoundError: a file is not there.
        UnsupportedCheckpointError: a file is not what it should be.
        ValueError: the networks are of different families, or an upscale model is not for RGB.
        RuntimeError: torch.compile does not work on the device.
    """
    predictor = None
    if noise_predictor != "none":
        predictor = load_noise_predictor(find_weights(noise_predictor))
    upscaler = Upscaler(
        load_autoencoder(find_weights(autoencoder)),
        load_denoiser(find_weights(denoiser)),
        predictor,
        {Path(name).name: _load_upscale_model(find_weights(name)) for name in upscale_models},
        torch.device(device),
        tile,
    )
    for network in (upscaler.autoencoder, upscaler.denoiser, predictor):
        if network is not None:
            set_precision(network.to(device), dtype, dtype)
            accelerate(network, upscaler.device, compiled)
    for model in upscaler.upscale_models.values():
        model.to(upscaler.device)
    check_family(upscaler.autoencoder, upscaler.denoiser, upscaler.noise_predictor)
    return upscaler


def _load_upscale_model(path: Path) -> ImageModelDescriptor[Any]:
    model = ModelLoader("cpu").load_from_file(str(path))
    if not isinstance(model, ImageModelDescriptor) or model.input_channels != 3:
        raise ValueError(f"{path.name} is no upscale model for RGB pictures.")
    return model.eval()
