"""Loads the networks of a job, and upscales pictures with them."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace

import torch

from ...config import Wrap
from ...pictures.target import Pass, Target, plan_passes
from ..options import fingerprint_models
from ..upscaler import Method, load_upscaler
from .picture import FilePicture

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Settings:
    """Settings of a job's networks.

    Attributes:
        autoencoder, denoiser, noise_predictor, upscale_model: model files, see `load_upscaler`.
        method: sampling settings.
        precision: a key of `PRECISIONS`.
        tile: maximum width and height of a tile, in LR pixels.
        device: torch device; "" for cuda if available, else cpu.
        wrap: axes along which all pictures are periodic.
        compiled: whether to compile the networks with torch.compile.
        target: size of the results.
    """

    autoencoder: str
    denoiser: str
    noise_predictor: str
    upscale_model: str | None
    method: Method
    precision: str
    tile: int
    device: str = ""
    wrap: Wrap = "none"
    compiled: bool = False
    target: Target = field(default_factory=Target)

    @property
    def models(self) -> list[str]:
        """Names of the model files."""
        files = [self.autoencoder, self.denoiser, self.noise_predictor]
        return [*files, self.upscale_model] if self.upscale_model else files

    def fingerprint(self) -> str:
        """Hash the settings and model files that results depend on.

        Tile size, device and compilation are left out, since they hardly change results. So a run
        that ran out of memory can be continued with smaller tiles.
        """
        method = asdict(self.method) | {"name": "", "start": ""}
        values = [list(fingerprint_models(self.models).values()), method, self.precision]
        # Defaults of newer settings are left out, so that results of older versions remain valid.
        if self.wrap != "none":
            values.append(self.wrap)
        if not self.target.is_plain:
            values.append(asdict(self.target))
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


class Networks:
    """Loads the networks of a job and upscales pictures.

    Raises:
        Exceptions of `load_upscaler`.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._upscaler = load_upscaler(
            settings.autoencoder,
            settings.denoiser,
            settings.noise_predictor,
            [settings.upscale_model] if settings.upscale_model else [],
            device=device,
            tile=settings.tile,
            dtype=PRECISIONS[settings.precision],
            compiled=settings.compiled,
        )

    def passes(self, picture: FilePicture) -> list[Pass]:
        """Plan the passes in which a picture is upscaled to the target size.

        Raises:
            ValueError: the target size can't be reached.
        """
        _, h, w = picture.size
        return plan_passes(h, w, self._settings.target)

    def __call__(self, picture: FilePicture) -> FilePicture:
        """Upscale a picture, including its alpha channel.

        Raises:
            MemoryError: the result or the smallest tile does not fit into memory.
            ValueError: the result is not finite, or the target size can't be reached.
        """
        settings = self._settings
        picture = replace(picture, wrap=settings.wrap)
        result = self._upscaler.upscale(picture, settings.method, settings.target)
        alpha = None if picture.alpha is None else result[:, 3:]
        return replace(picture, rgb=result[:, :3], alpha=alpha)
