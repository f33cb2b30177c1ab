"""LPNSR_MODELS and LATENT, the types that nodes of this pack exchange."""

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
"""Key of the `Carried` object in a LATENT dict. Most core nodes copy the object unchanged, even if
they change the samples. Rebatch Latents and Save Latent drop it. Latent Batch keeps only the object
of the first latent."""


@dataclass(frozen=True)
class LPNSRModels(Networks):
    """The networks of one family, managed by ComfyUI."""

    def is_dynamic(self) -> bool:
        """Return False, since the networks are not in dynamic VRAM.

        ComfyUI's RAM cache calls this method on the outputs of nodes.
        """
        return False


@dataclass(frozen=True)
class Carried:
    """Data that nodes of this pack attach to a LATENT.

    It includes the original samples. If core nodes reorder or change the samples of the LATENT, the
    original ones serve to find the LR image of each sample.

    Attributes:
        samples: the original samples, [B,C,h,w].
        lr: the B LR images, h x w.
        alpha: alpha of the results, [B,1,4h,4w] in [0,1]; None if they are opaque.
        family: name of the model family.
        quantize: whether the samples are quantised before decoding.
    """

    samples: Tensor
    lr: Picture
    alpha: Tensor | None
    family: str
    quantize: bool = True

    def latent(self) -> dict[str, Any]:
        """Make a LATENT with these samples and this data."""
        return {"samples": self.samples, CARRIED: self}


def unpack_latent(
    latent: dict[str, Any], models: LPNSRModels, lr: Picture | None = None
) -> Carried:
    """Check a LATENT, and assign an LR image to each of its samples.

    Args:
        latent: LATENT from a node of this pack. If `lr` is given, it may also come from other
            nodes, such as VAE Encode.
        models: models that will process the LATENT.
        lr: LR images. If None, those that the LATENT carries are used.

    Raises:
        ValueError: there are no LR images, the LATENT does not match the LR images or the models,
            or it has NaN or infinite values.
    """
    samples: Tensor = latent["samples"].float()
    given: Carried | None = latent.get(CARRIED)
    if given and given.family != models.family.name:
        raise ValueError(
            f"This LATENT belongs to the model family {given.family!r}, but the models belong to "
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
            f"{'its LR image' if lr is None else 'lr_image'} needs {expected}. If a node after "
            "ResShift Encode has cropped, resized or regrouped the LATENT, do that with the image "
            "before ResShift Encode instead. If it was saved by a version of this pack that padded "
            "latents, run ResShift Encode again."
        )
    if not samples.isfinite().all():
        raise ValueError(
            "This LATENT has NaN or infinite values. Choose precision fp32 or bf16 in Load LPNSR "
            "Models."
        )
    return found


def _carried(latent: dict[str, Any], given: Carried | None) -> Carried:
    """Find the LR image of each sample in a LATENT that core nodes may have changed.

    Each sample is compared with the original ones, so the samples may have been reordered. If some
    have new values (blended, composited), all are assumed to be in their original places.

    Raises:
        ValueError: the LATENT carries no LR image; or it is flipped or rotated; or core nodes
            changed values of its samples and also picked, repeated or joined samples.
    """
    samples: Tensor = latent["samples"].float()
    if given is None:
        raise ValueError(
            f"This LATENT, of shape {tuple(samples.shape)}, carries no LR image. It is not from "
            "ResShift Encode, or a node in between dropped it (Save Latent and Rebatch Latents "
            "do). Connect the LR image to lr_image, or connect the latent of ResShift Encode or "
            "LPNSR Sample directly."
        )
    known, index = given.samples.to(samples), latent.get("batch_index", range(len(samples)))
    places = [_find(x, known, i) for x, i in zip(samples, index, strict=False)]
    if None not in places and len(places) == len(samples):
        alpha = None if given.alpha is None else given.alpha[places]
        lr = Picture(given.lr.rgb[places], wrap=given.lr.wrap)
        return replace(given, samples=samples, lr=lr, alpha=alpha)
    if "batch_index" in latent or len(samples) != len(known):
        raise ValueError(
            "This LATENT carries the LR images of one ResShift Encode or LPNSR Sample, but some of "
            "its samples can't be assigned to them: Latent Batch has added samples, or samples "
            "were changed after they were picked or repeated. Connect an LR image for each sample "
            "to lr_image, or batch the images before ResShift Encode."
        )
    turned = (known.flip(2), known.flip(3), *(known.rot90(k, (2, 3)) for k in (1, 2, 3)))
    if any(torch.equal(samples, t) for t in turned):
        raise ValueError(
            "This LATENT is flipped or rotated, but its LR image is not. Flip or rotate the "
            "image before ResShift Encode, or after LPNSR Decode."
        )
    return replace(given, samples=samples)


def _find(sample: Tensor, known: Tensor, expected: int) -> int | None:
    """Return the index of a sample in `known`, or None. The expected index is tried first."""
    order = [expected, *range(len(known))] if 0 <= expected < len(known) else range(len(known))
    return next((i for i in order if torch.equal(sample, known[i])), None)
