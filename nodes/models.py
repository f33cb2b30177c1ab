"""LPNSR_MODELS and LATENT: what travels along the wires between our nodes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from comfy_api.latest import io
from torch import Tensor

from ..lpnsr_impl.config import SCALE, StudentConfig, UNetConfig, Wrap
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


@dataclass(frozen=True)
class Item:
    """One picture of a batch as our node gave it: samples [1,C,H,W], and their condition."""

    samples: Tensor
    condition: Condition


class ItemIndex(int):
    """Entry of a LATENT's `batch_index` that brings its item along.

    Where core nodes pick, repeat, join or regroup latents, they do the same with `batch_index`.
    Any key of our own they would drop, or copy as it is.
    """

    item: Item

    @classmethod
    def of(cls, index: int, item: Item) -> "ItemIndex":
        """The entry `index` of an item."""
        entry = cls(index)
        entry.item = item
        return entry

    def __add__(self, offset: int) -> "ItemIndex":
        """Repeat Latent Batch counts on."""
        return ItemIndex.of(int(self) + offset, self.item)


def pack_latent(samples: Tensor, condition: Condition) -> dict[str, Any]:
    """LATENT of [B,C,H,W] samples, padded to what the windows need, and their condition."""
    entries: list[ItemIndex] = []
    for i, x in enumerate(samples.split(1)):
        alpha = None if condition.alpha is None else condition.alpha[i : i + 1]
        one = replace(condition, lr=condition.lr[i : i + 1], alpha=alpha)
        entries.append(ItemIndex.of(i, Item(x, one)))
    return {"samples": samples, "batch_index": entries}


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
    entries: list[int] = latent.get("batch_index", [])
    items = [entry.item for entry in entries if isinstance(entry, ItemIndex)]
    for item in items:
        if item.condition.family != models.family:
            raise ValueError(
                f"This LATENT is of the model family {item.condition.family!r}, the models are of "
                f"{models.family!r}. Connect the same Load LPNSR Models to all LPNSR nodes."
            )
    config = models.denoiser.network.config
    if lr is None:
        condition = _carried(samples, entries, items)
    else:
        wrap = items[0].condition.wrap if items else _wrap_of(samples, lr, config)
        codes = items[0].condition.codes if items else models.denoiser.network.predicts_codes
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
    if condition.wrap != "none":  # whatever was done to it on its way
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


def _carried(samples: Tensor, entries: Sequence[int], items: Sequence[Item]) -> Condition:
    """Condition of the items that samples came from, wherever core nodes have put them."""
    if not len(samples) == len(entries) == len(items):
        raise ValueError(
            f"This LATENT, of shape {tuple(samples.shape)}, carries no LR image. It is not from "
            "ResShift Encode, or a node in between dropped it (Save Latent does). Connect the LR "
            "image to lr_image, or ResShift Encode or LPNSR Sample directly."
        )
    sizes = sorted({f"{i.condition.lr.shape[3]}x{i.condition.lr.shape[2]}" for i in items})
    if len(sizes) > 1:
        raise ValueError(
            f"This LATENT holds pictures of different sizes ({', '.join(sizes)}). Batch latents "
            "of one size, or the images before ResShift Encode."
        )
    wraps = sorted({i.condition.wrap for i in items})
    if len(wraps) > 1:
        raise ValueError(
            f"This LATENT holds pictures of different wrap ({', '.join(wraps)}). Batch latents of "
            "the same wrap."
        )
    if len({i.condition.codes for i in items}) > 1:
        raise ValueError(
            "This LATENT holds pictures of an RSD student together with others, which are decoded "
            "in another way. Connect each to an LPNSR Decode of its own, and batch the images."
        )
    seen: dict[int, Tensor] = {}
    for x, entry, item in zip(samples.split(1), entries, items, strict=True):
        if not torch.equal(seen.setdefault(id(entry), x), x):
            raise ValueError(
                "This LATENT names one picture for several different latents, as "
                "LatentBatchSeedBehavior does. Take that node out: every picture of a batch has "
                "the same seed here anyway."
            )
        if _is_turned(x, item.samples):
            raise ValueError(
                "This LATENT is flipped or rotated, and its LR image is not. Flip or rotate the "
                "image before ResShift Encode, or after LPNSR Decode."
            )
    conditions = [item.condition for item in items]
    lr = torch.cat([condition.lr for condition in conditions])
    alphas = [condition.alpha for condition in conditions]
    if all(alpha is None for alpha in alphas):
        return replace(conditions[0], lr=lr, alpha=None)
    h, w = lr.shape[2:]
    opaque = torch.ones(1, 1, SCALE * h, SCALE * w, device=lr.device)
    alpha = torch.cat([opaque if alpha is None else alpha for alpha in alphas])
    return replace(conditions[0], lr=lr, alpha=alpha)


def _is_turned(x: Tensor, original: Tensor) -> bool:
    """Whether x is the original flipped or rotated. [1,C,H,W] each"""
    original = original.to(x)
    if torch.equal(x, original):
        return False
    turned = (original.flip(2), original.flip(3), *(original.rot90(k, (2, 3)) for k in (1, 2, 3)))
    return any(torch.equal(x, t) for t in turned)
