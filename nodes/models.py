"""LPNSR_MODELS and LATENT: what travels along the wires between our nodes."""

from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..lpnsr_impl.images import padded_size
from ..lpnsr_impl.models import Autoencoder, Denoiser, NoisePredictor
from .host import Managed

LPNSRModelsType = io.Custom("LPNSR_MODELS")

_CONDITION_KEY = "lpnsr"


@dataclass(frozen=True)
class LPNSRModels:
    """The networks of one family."""

    autoencoder: Managed[Autoencoder]
    denoiser: Managed[Denoiser]
    noise_predictor: Managed[NoisePredictor] | None
    family: str


@dataclass(frozen=True)
class Condition:
    """What a latent carries beside its samples.

    lr: LR image in its true size, [B,3,h,w] in [-1,1]; alpha: [B,1,4h,4w] in [0,1] or None;
    family: of the autoencoder.
    """

    lr: Tensor
    alpha: Tensor | None
    family: str


def pack_latent(samples: Tensor, condition: Condition) -> dict[str, Any]:
    """LATENT of [B,C,H,W] samples, padded to what the windows need, and their condition."""
    return {"samples": samples, _CONDITION_KEY: condition}


def unpack_latent(latent: dict[str, Any], models: LPNSRModels) -> tuple[Tensor, Condition]:
    """Samples, as float32 [B,C,H,W], and condition of a LATENT of ours.

    Raises:
        ValueError: the latent is not ours, lost its condition, or no longer fits it or the models.
    """
    condition = latent.get(_CONDITION_KEY)
    samples = latent["samples"].float()
    if not isinstance(condition, Condition):
        raise ValueError(
            f"This LATENT, of shape {tuple(samples.shape)}, carries no LR image. It is not from "
            "ResShift Encode, or a node in between dropped it (Save Latent and Rebatch Latents "
            "do). Connect ResShift Encode or LPNSR Sample directly."
        )
    if condition.family != models.family:
        raise ValueError(
            f"This LATENT is of the model family {condition.family!r}, the models are of "
            f"{models.family!r}. Connect the same Load LPNSR Models to all LPNSR nodes."
        )
    channels = models.autoencoder.network.config.embed_channels
    b, _, h, w = condition.lr.shape
    expected = (b, channels, *padded_size(h, w, models.denoiser.network.config.size_multiple))
    if tuple(samples.shape) != expected:
        raise ValueError(
            f"This LATENT has the shape {tuple(samples.shape)}, but its LR image needs "
            f"{expected}. A node after ResShift Encode has cropped, resized or "
            "regrouped it; do that with the image, before ResShift Encode."
        )
    if not samples.isfinite().all():
        raise ValueError(
            "This LATENT has NaN or infinite values. Choose precision fp32 or bf16 in Load LPNSR "
            "Models."
        )
    return samples, condition
