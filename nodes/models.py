"""LPNSR_MODELS and LATENT: what travels along the wires between our nodes."""

import hashlib
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from comfy_api.latest import io
from torch import Tensor

from ..lpnsr_impl.config import StudentConfig, UNetConfig, Wrap
from ..lpnsr_impl.models import Autoencoder, Denoiser, NoisePredictor
from ..lpnsr_impl.pictures.images import to_pm1
from ..lpnsr_impl.pictures.picture import Picture
from ..lpnsr_impl.pictures.wrap import continued, is_periodic, upsampled
from .host import Managed

LPNSRModelsType = io.Custom("LPNSR_MODELS")


@dataclass(frozen=True)
class LPNSRModels:
    """The networks of one family."""

    autoencoder: Managed[Autoencoder]
    denoiser: Managed[Denoiser]
    noise_predictor: Managed[NoisePredictor] | None
    family: str

    @property
    def student(self) -> StudentConfig | None:
        """What is special about the denoiser if it is a one-step student."""
        return self.denoiser.network.student


@dataclass(frozen=True)
class Condition:
    """What a latent carries beside its samples.

    lr: LR image in its true size, [B,3,h,w] in [-1,1]; alpha: [B,1,4h,4w] in [0,1] or None;
    family: of the autoencoder; wrap: axes in which the picture goes on periodically; codes: whether
    the nearest codes are decoded, as all but RSD wants it.
    """

    lr: Tensor
    alpha: Tensor | None
    family: str
    wrap: Wrap = "none"
    codes: bool = True

    @staticmethod
    def of(
        lr: Picture, family: str, alpha: Tensor | None = None, wrap: Wrap = "none"
    ) -> "Condition":
        """Condition by LR pictures, with their own alpha, enlarged, where none is given."""
        if alpha is None and lr.alpha is not None:
            alpha = upsampled(lr.alpha, wrap).clamp(0, 1)
        return Condition(to_pm1(lr.rgb), alpha, family, wrap)


CARRIED = "lpnsr"
"""Key of a LATENT for what our node gave. Most core nodes copy it as it is, whatever they do to the
samples; Rebatch Latents and Save Latent drop it, and Latent Batch takes the first latent's."""


@dataclass(frozen=True)
class Carried:
    """A batch as our node gave it: padded samples, [B,C,H,W], and their condition."""

    samples: Tensor
    condition: Condition


def pack_latent(samples: Tensor, condition: Condition) -> dict[str, Any]:
    """LATENT of [B,C,H,W] samples, padded to what the windows need, and their condition."""
    return {"samples": samples, CARRIED: Carried(samples, condition)}


def unpack_latent(
    latent: dict[str, Any], models: LPNSRModels, lr: Picture | None = None
) -> tuple[Tensor, Condition]:
    """Samples, padded float32 [B,C,H,W], and condition of a LATENT.

    Args:
        latent: of ours, or any of our autoencoder's if `lr` is given.
        models: what it is for.
        lr: LR pictures in place of those that it carries. Then its samples need no padding.

    Raises:
        ValueError: there is no condition, or the latent no longer fits it or the models.
    """
    samples: Tensor = latent["samples"].float()
    carried: Carried | None = latent.get(CARRIED)
    given = carried.condition if carried else None
    if given and given.family != models.family:
        raise ValueError(
            f"This LATENT is of the model family {given.family!r}, the models are of "
            f"{models.family!r}. Connect the same Load LPNSR Models to all LPNSR nodes."
        )
    config = models.denoiser.network.config
    if lr is None:
        condition = _of_each(samples, carried, "batch_index" in latent)
    else:
        wrap = given.wrap if given else _wrap_of(samples, lr, config)
        codes = given.codes if given else models.denoiser.network.predicts_codes
        condition = replace(Condition.of(lr, models.family, wrap=wrap), codes=codes)
    channels = models.autoencoder.network.config.embed_channels
    b, _, h, w = condition.lr.shape
    height, width = config.padded(h, w, condition.wrap)
    if lr is not None and tuple(samples.shape) == (b, channels, h, w):
        samples = continued(samples, height, width, "none")
    if tuple(samples.shape) != (b, channels, height, width):
        raise ValueError(
            f"This LATENT has the shape {tuple(samples.shape)}, but "
            f"{'its LR image' if lr is None else 'lr_image'} needs "
            f"{(b, channels, height, width)}. A node after ResShift Encode has cropped, resized "
            "or regrouped it; do that with the image, before ResShift Encode."
        )
    if not samples.isfinite().all():
        raise ValueError(
            "This LATENT has NaN or infinite values. Choose precision fp32 or bf16 in Load LPNSR "
            "Models."
        )
    if not is_periodic(samples, h, w, condition.wrap):  # something was done to it on its way
        samples = continued(samples[:, :, :h, :w], height, width, condition.wrap)
    return samples, condition


def _wrap_of(samples: Tensor, lr: Picture, config: UNetConfig) -> Wrap:
    """Axes in which a latent that carries nothing wraps: only what wraps is periodic."""
    _, h, w = lr.size
    for wrap in reversed(get_args(Wrap)):
        size = config.padded(h, w, wrap)
        if tuple(samples.shape[2:]) == size and is_periodic(samples, h, w, wrap):
            return wrap
    return "none"


def _of_each(samples: Tensor, carried: Carried | None, regrouped: bool) -> Condition:
    """Condition of each sample, wherever core nodes have put it.

    A sample that is unchanged is known by that. Others (blended, composited) are in their places
    still, unless `batch_index` tells that a core node has picked, repeated or joined some.
    """
    if carried is None:
        raise ValueError(
            f"This LATENT, of shape {tuple(samples.shape)}, carries no LR image. It is not from "
            "ResShift Encode, or a node in between dropped it (Save Latent and Rebatch Latents "
            "do). Connect the LR image to lr_image, or ResShift Encode or LPNSR Sample directly."
        )
    given, condition = carried.samples.to(samples), carried.condition
    if torch.equal(samples, given):
        return condition
    places = _places(samples, given, condition)
    if None not in places:
        alpha = None if condition.alpha is None else condition.alpha[places]
        return replace(condition, lr=condition.lr[places], alpha=alpha)
    if regrouped or len(samples) != len(given):
        raise ValueError(
            "This LATENT carries the LR images of one ResShift Encode or LPNSR Sample, and not all "
            "of its samples are known to be from there: Latent Batch has joined others, or some "
            "were changed after they were picked or repeated. Connect an LR image for each sample "
            "to lr_image, or batch the images before ResShift Encode."
        )
    turned = (given.flip(2), given.flip(3), *(given.rot90(k, (2, 3)) for k in (1, 2, 3)))
    if any(torch.equal(samples, t) for t in turned):
        raise ValueError(
            "This LATENT is flipped or rotated, and its LR image is not. Flip or rotate the "
            "image before ResShift Encode, or after LPNSR Decode."
        )
    return condition


def _places(samples: Tensor, given: Tensor, condition: Condition) -> list[int | None]:
    """Which of the given samples each one is; None if it is none, or may be of several pictures."""

    def content(x: Tensor) -> bytes:
        return hashlib.sha256(x.cpu().numpy().tobytes()).digest()

    def beside(i: int) -> tuple[bytes, bytes]:
        alpha = b"" if condition.alpha is None else content(condition.alpha[i])
        return content(condition.lr[i]), alpha

    place_of: dict[bytes, int | None] = {}
    for i, x in enumerate(given):
        first = place_of.setdefault(content(x), i)
        if first is not None and beside(first) != beside(i):
            place_of[content(x)] = None
    return [place_of.get(content(x)) for x in samples]
