"""The networks of a job, and a picture through them, once or twice."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace

import torch

from ...config import Wrap
from ...pictures.target import Pass, Target, plan_passes
from ..options import model_fingerprints
from ..upscaler import Method, load_upscaler
from .picture import FilePicture

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Settings:
    """What a job upscales with. Models are named as for `load_upscaler`.

    Attributes:
        device: "" is cuda if there is one, else cpu.
        tile: largest, in LR pixels.
        precision: a key of `PRECISIONS`.
        wrap: axes in which every picture goes on periodically.
        compiled: whether torch.compile makes the kernels.
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
        """The files."""
        files = [self.autoencoder, self.denoiser, self.noise_predictor]
        return [*files, self.upscale_model] if self.upscale_model else files

    def fingerprint(self) -> str:
        """Changes with all that results depend on. Tile, device and kernels are not: a result is
        about the same with any, and a run that lacked memory can go on with less."""
        method = asdict(self.method) | {"name": "", "start": ""}
        told = [list(model_fingerprints(self.models).values()), method, self.precision]
        if self.wrap != "none":  # else results of before there was a choice would be made again
            told.append(self.wrap)
        if not self.target.is_plain:
            told.append(asdict(self.target))
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


class Networks:
    """Loaded networks. They turn pictures into pictures of the size wanted."""

    def __init__(self, settings: Settings) -> None:
        """Raises as `load_upscaler`."""
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
        """How a picture gets its size.

        Raises:
            ValueError: the size can't be reached.
        """
        _, h, w = picture.size
        return plan_passes(h, w, self._settings.target)

    def __call__(self, picture: FilePicture) -> FilePicture:
        """Upscale. Alpha is enlarged by bicubic interpolation.

        Raises:
            MemoryError: the result does not fit into memory, or not even the smallest tiles do.
            ValueError: the result has no finite colours, or its size can't be reached.
        """
        settings = self._settings
        picture = replace(picture, wrap=settings.wrap)
        result = self._upscaler.upscale(picture, settings.method, settings.target)
        alpha = None if picture.alpha is None else result[:, 3:]
        return replace(picture, rgb=result[:, :3], alpha=alpha)
