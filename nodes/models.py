"""LPNSR_MODELS and LATENT: the data that travels between our nodes."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..lpnsr_impl.config import SCALE
from ..lpnsr_impl.engine.engine import Networks
from ..lpnsr_impl.pictures.picture import Picture

LPNSRModelsType = io.Custom("LPNSR_MODELS")

CARRIED = "lpnsr"
"""Key of a LATENT for a `Carried`. Most core nodes copy it whatever they do to the samples; Rebatch
Latents and Save Latent drop it, and Latent Batch takes the first latent's."""


@dataclass(frozen=True)
class LPNSRModels(Networks):
    """The networks of one family, in ComfyUI's memory."""

    def is_dynamic(self) -> bool:
        """False: the networks are not in ComfyUI's dynamic VRAM. Its RAM cache asks outputs."""
        return False


@dataclass(frozen=True)
class Carried:
    """What a LATENT of our nodes carries, to be found again after core nodes have changed it.

    Attributes:
        samples: [B,C,h,w] as our node gave them.
        lr: the B LR images, h x w.
        alpha: [B,1,4h,4w] in [0,1], or None.
        family: of the autoencoder.
        quantize: whether the nearest codes are decoded.
    """

    samples: Tensor
    lr: Picture
    alpha: Tensor | None
    family: str
    quantize: bool = True

    def latent(self) -> dict[str, Any]:
        """The LATENT."""
        return {"samples": self.samples, CARRIED: self}


def unpack_latent(
    latent: dict[str, Any], models: LPNSRModels, lr: Picture | None = None
) -> Carried:
    """Samples of a LATENT, with the LR image of each.

    Args:
        latent: from our nodes, or of our autoencoder's latents if `lr` is given.
        models: what it is for.
        lr: LR images in place of those that it carries.

    Raises:
        ValueError: there are no LR images, or the latent does not fit them or the models.
    """
    samples: Tensor = latent["samples"].float()
    given: Carried | None = latent.get(CARRIED)
    if given and given.family != models.family.name:
        raise ValueError(
            f"This LATENT is of the model family {given.family!r}, the models are of "
            f"{models.family.name!r}. Connect the same Load LPNSR Models to all LPNSR nodes."
        )
    if lr is None:
        found = _carried(latent, given)
    else:
        quantize = given.quantize if given else models.family.quantize
        lr = replace(lr, wrap=given.lr.wrap) if given else lr
        _, h, w = lr.size
        alpha = None if lr.alpha is None else lr.resize(SCALE * h, SCALE * w).alpha
        found = Carried(samples, lr, alpha, models.family.name, quantize)
    b, h, w = found.lr.size
    expected = (b, models.autoencoder.network.config.embed_channels, h, w)
    if tuple(samples.shape) != expected:
        raise ValueError(
            f"This LATENT has the shape {tuple(samples.shape)}, but "
            f"{'its LR image' if lr is None else 'lr_image'} needs {expected}. A node after "
            "ResShift Encode has cropped, resized or regrouped it: do that with the image, before "
            "ResShift Encode. Or it was saved by a version of this pack that padded latents: run "
            "ResShift Encode again."
        )
    if not samples.isfinite().all():
        raise ValueError(
            "This LATENT has NaN or infinite values. Choose precision fp32 or bf16 in Load LPNSR "
            "Models."
        )
    return found


def _carried(latent: dict[str, Any], given: Carried | None) -> Carried:
    """The LR image of each sample, wherever core nodes have put it.

    A sample that is unchanged is found by comparison. Others (blended, composited) are still in
    their places, unless `batch_index` tells that a core node has picked, repeated or joined some.
    """
    samples: Tensor = latent["samples"].float()
    if given is None:
        raise ValueError(
            f"This LATENT, of shape {tuple(samples.shape)}, carries no LR image. It is not from "
            "ResShift Encode, or a node in between dropped it (Save Latent and Rebatch Latents "
            "do). Connect the LR image to lr_image, or ResShift Encode or LPNSR Sample directly."
        )
    known, index = given.samples.to(samples), latent.get("batch_index", range(len(samples)))
    places = [_find(x, known, i) for x, i in zip(samples, index, strict=False)]
    if None not in places and len(places) == len(samples):
        alpha = None if given.alpha is None else given.alpha[places]
        lr = Picture(given.lr.rgb[places], wrap=given.lr.wrap)
        return replace(given, samples=samples, lr=lr, alpha=alpha)
    if "batch_index" in latent or len(samples) != len(known):
        raise ValueError(
            "This LATENT carries the LR images of one ResShift Encode or LPNSR Sample, and not all "
            "of its samples are known to be from there: Latent Batch has joined others, or some "
            "were changed after they were picked or repeated. Connect an LR image for each sample "
            "to lr_image, or batch the images before ResShift Encode."
        )
    turned = (known.flip(2), known.flip(3), *(known.rot90(k, (2, 3)) for k in (1, 2, 3)))
    if any(torch.equal(samples, t) for t in turned):
        raise ValueError(
            "This LATENT is flipped or rotated, and its LR image is not. Flip or rotate the "
            "image before ResShift Encode, or after LPNSR Decode."
        )
    return replace(given, samples=samples)


def _find(sample: Tensor, known: Tensor, expected: int) -> int | None:
    """Index of a sample among the known ones, first looked for where it is expected."""
    order = [expected, *range(len(known))] if 0 <= expected < len(known) else range(len(known))
    return next((i for i in order if torch.equal(sample, known[i])), None)
