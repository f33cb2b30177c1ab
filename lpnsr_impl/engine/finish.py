"""What becomes of decoded pictures: colours, size, agreement with the LR picture, mask."""

from dataclasses import dataclass

from torch import Tensor

from ..config import Wrap
from ..pictures.color import COLOR_FIXES
from ..pictures.consistency import back_project, lr_psnr
from ..pictures.images import to_01
from ..pictures.masks import mask_weights, masked
from ..pictures.wrap import resampled, upsampled


@dataclass(frozen=True)
class Inside:
    """Where to show the result, and what to show elsewhere.

    Attributes:
        mask: [B,1,*,*] in [0,1], 1 for the result.
        feather: in LR pixels.
        start: [B,3,*,*], the pre-upsampled pictures; None for those of the last pass.
    """

    mask: Tensor
    feather: int
    start: Tensor | None = None


@dataclass(frozen=True)
class Finish:
    """What becomes of decoded pictures, in this order.

    Attributes:
        color_fix: a key of `COLOR_FIXES`.
        size: (H, W) that they are downscaled to; None for x4.
        lr: [B,3,h,w] in [0,1], the pictures before any pass: what results agree with, and whose
            shape and pixels mask and feather have. None for the pictures of the chain.
        alpha: [B,1,*,*] in [0,1] of the results, or None.
        lr_consistency: whether the result, downscaled, is to be `lr` (`consistency.back_project`).
        inside: comes last, so that nothing else changes what is kept of the start.
    """

    color_fix: str = "wavelet"
    size: tuple[int, int] | None = None
    lr: Tensor | None = None
    alpha: Tensor | None = None
    lr_consistency: bool = False
    inside: Inside | None = None


def finished(
    sr: Tensor, lr: Tensor, finish: Finish, pictures: slice, wrap: Wrap
) -> tuple[Tensor, float]:
    """Finish some pictures of a batch, on the device where they are.

    Args:
        sr: [N,3,4h,4w] in [0,1]; it may be changed.
        lr: [N,3,h,w] in [-1,1].
        finish: of the whole batch.
        pictures: which of the batch these are.
        wrap: axes in which they go on periodically.

    Returns:
        [N,3,H,W] in [0,1], and their mean LR-PSNR in dB.

    Raises:
        ValueError: one is not finite.
    """
    if not sr.isfinite().all():
        raise ValueError(
            "The decoded image has NaN or infinite values. Choose precision fp32 or bf16 for the "
            "models."
        )
    if fix := COLOR_FIXES[finish.color_fix]:
        sr = fix(sr, to_01(upsampled(lr, wrap)), wrap)
    size = finish.size or (sr.shape[2], sr.shape[3])
    if finish.size:
        sr = resampled(sr, *size, wrap).clamp_(0, 1)
    original = to_01(lr) if finish.lr is None else finish.lr[pictures].to(sr.device)
    if finish.lr_consistency:
        sr = back_project(sr, original, wrap=wrap)
    if finish.inside:
        assert finish.inside.start is not None
        mask = finish.inside.mask[pictures].to(sr.device)
        h, w = original.shape[2:]
        weights = mask_weights(mask, h, w, finish.inside.feather, wrap, size)
        start = resampled(finish.inside.start[pictures].to(sr.device), *size, wrap)
        sr = masked(sr, start.clamp(0, 1), weights)
    return sr, lr_psnr(sr, original, wrap)
