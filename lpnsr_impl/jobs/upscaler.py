"""Loads networks and upscales images with them, for the command line."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from spandrel import ImageModelDescriptor, ModelLoader
from torch import Tensor, nn

from ..accelerate import accelerate, set_precision
from ..config import LARGEST_TILE, SCALE, Family, PredictorMode
from ..engine.engine import Engine, Networks, Start
from ..engine.finish import Finish
from ..engine.memory import Managed, Memory
from ..engine.progress import Progress
from ..engine.tiled import Tiles, Tiling
from ..files.checkpoints import AUTOENCODER, DENOISER, NOISE_PREDICTOR, check_family, load_model
from ..files.folders import find_weights
from ..method.sampler import ALL_ON, Sampling
from ..models import Autoencoder, Denoiser, NoisePredictor
from ..pictures.edges import resample
from ..pictures.images import SMALLEST_MODEL_INPUT
from ..pictures.picture import Picture, upsample_bicubic
from ..pictures.target import Target

BICUBIC = "bicubic"


@dataclass(frozen=True)
class Method:
    """Settings of an upscaling method, such as one row of an evaluation table.

    Attributes:
        name: name for tables and logs.
        start: what makes the x4 image that sampling starts from: "bicubic", or the file name of an
            upscale model.
        steps: number of sampling steps. With 0, the result is the start image itself.
        predictor_on: {t: whether step t uses the noise predictor instead of random noise}.
        predictor_mode, color_fix, seed: same as the inputs of the nodes.
    """

    name: str
    start: str = BICUBIC
    steps: int = 4
    predictor_on: Mapping[int, bool] = field(default_factory=lambda: dict(ALL_ON))
    predictor_mode: PredictorMode = "sample"
    color_fix: str = "wavelet"
    seed: int = 12345


class _UpscaleModel(nn.Module):
    """Wraps a spandrel model, and adds the attributes that `Tiles` needs."""

    config = SimpleNamespace(
        size_multiple=1, tile_multiple=SMALLEST_MODEL_INPUT, largest_tile=LARGEST_TILE
    )
    compiled = False

    def __init__(self, model: ImageModelDescriptor[Any]) -> None:
        super().__init__()
        self.forward = model


@dataclass
class Upscaler:
    """Upscales images with the networks of one family, on one device.

    Attributes:
        autoencoder, denoiser, noise_predictor: networks on `device`; `noise_predictor` may be None.
        upscale_models: upscale models that `Method.start` can name, by file name.
        device: device of all networks.
        tile: maximum width and height of a tile, in LR pixels.
        memory: memory of the device; limits the sizes of tiles and batches.
        family: properties that the networks share, such as the noise schedule.
    """

    autoencoder: Autoencoder
    denoiser: Denoiser
    noise_predictor: NoisePredictor | None
    upscale_models: dict[str, ImageModelDescriptor[Any]]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    tile: int = LARGEST_TILE
    memory: Memory = field(default_factory=Memory)
    family: Family = field(default_factory=Family)

    @property
    def engine(self) -> Engine:
        """The engine that runs these networks."""
        predictor = self.noise_predictor
        networks = Networks(
            self.family,
            Managed(self.autoencoder, self.device),
            Managed(self.denoiser, self.device),
            None if predictor is None else Managed(predictor, self.device),
        )
        return Engine(networks, self.memory, Tiling(max_tile=self.tile))

    @torch.no_grad()
    def upscale(self, lr: Picture, method: Method, target: Target | None = None) -> Tensor:
        """Upscale images.

        Args:
            lr: LR images, B in a batch.
            method: settings of the method.
            target: size of the results; None for x4. Ignored if `method.steps` is 0.

        Returns:
            Images in [0,1] in main memory: [B,3,H,W], or [B,4,H,W] with alpha.

        Raises:
            ValueError: the target size can't be reached, or a result is not finite.
            MemoryError: the result or the smallest tile does not fit into memory.
        """
        engine, start = self.engine, self._start(method.start)
        if not method.steps:
            return torch.cat(list(engine.make_starts(lr, start or upsample_bicubic))).clamp(0, 1)
        sampling = Sampling(
            method.seed,
            method.steps,
            predictor_on=method.predictor_on,
            predictor_mode=method.predictor_mode,
        )
        return engine.upscale(lr, start, sampling, Finish(method.color_fix), target)[0]

    def _start(self, name: str) -> Start | None:
        """Make a function that upscales LR with the named upscale model; None for bicubic."""
        if name == BICUBIC:
            return None
        model = self.upscale_models[name]
        managed = Managed(_UpscaleModel(model), self.device)

        def start(lr: Picture) -> Tensor:
            tiling = Tiling(max_tile=max(self.tile, SMALLEST_MODEL_INPUT))
            tiles = Tiles([managed], lr, self.memory, tiling, Progress())
            y = [
                tiles(model, lr.rgb[i], text="start", output_scale=model.scale)
                for i in tiles.groups()
            ]
            _, h, w = lr.size
            return resample(torch.cat(y), SCALE * h, SCALE * w, lr.wrap).clamp(0, 1)

        return start


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
    """Load the networks of an upscaler. Give each file by its path or, if bundled, by its name.

    Args:
        autoencoder, denoiser: model files.
        noise_predictor: model file, or "none".
        upscale_models: model files of any architecture that spandrel supports.
        device: device to run on.
        tile: maximum width and height of a tile, in LR pixels.
        dtype: dtype of weights and activations.
        compiled: whether to compile the networks with torch.compile.

    Raises:
        FileNotFoundError: a file does not exist.
        UnsupportedCheckpointError: a file does not hold the expected network.
        ValueError: the networks are of different families, or an upscale model is not for RGB.
        RuntimeError: torch.compile does not work on the device.
    """
    a = load_model(find_weights(autoencoder), AUTOENCODER)
    d = load_model(find_weights(denoiser), DENOISER)
    p = None
    if noise_predictor != "none":
        p = load_model(find_weights(noise_predictor), NOISE_PREDICTOR)
    upscaler = Upscaler(
        a.network,
        d.network,
        None if p is None else p.network,
        {Path(name).name: _load_upscale_model(find_weights(name)) for name in upscale_models},
        torch.device(device),
        tile,
        family=check_family(a, d, p),
    )
    for network in (upscaler.autoencoder, upscaler.denoiser, upscaler.noise_predictor):
        if network is not None:
            set_precision(network.to(device), dtype, dtype)
            accelerate(network, upscaler.device, compiled)
    for model in upscaler.upscale_models.values():
        model.to(upscaler.device)
    return upscaler


def _load_upscale_model(path: Path) -> ImageModelDescriptor[Any]:
    model = ModelLoader("cpu").load_from_file(str(path))
    if not isinstance(model, ImageModelDescriptor) or model.input_channels != 3:
        raise ValueError(f"{path.name} is not an upscale model for RGB pictures. Give another one.")
    return model.eval()
