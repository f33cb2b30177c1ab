"""The steps after decoding: colour fix, size, LR consistency and mask."""

from dataclasses import dataclass, replace

from torch import Tensor

from ..config import SCALE
from ..pictures.color import COLOR_FIXES
from ..pictures.consistency import back_project, lr_psnr
from ..pictures.edges import resample, surround
from ..pictures.images import is_grey
from ..pictures.masks import blend, mask_weights
from ..pictures.picture import Picture


@dataclass(frozen=True)
class Region:
    """The part of the image that is regenerated. Elsewhere the pre-upsampled image is kept.

    Attributes:
        mask: [B,1,*,*] in [0,1], 1 where the image is regenerated.
        feather: width of the mask's soft edges in LR pixels.
        start: pre-upsampled images, [B,3,*,*]. None if `Engine.upscale` should compute them.
    """

    mask: Tensor
    feather: int
    start: Tensor | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no part of the image is regenerated."""
        return not self.mask.any()


@dataclass(frozen=True)
class Finish:
    """Steps after decoding, in the order of the attributes.

    Attributes:
        color_fix: key of the colour fix in `COLOR_FIXES`.
        size: (H, W) to downscale to; None for x4.
        lr: LR images to compare the result with. None for the LR images that were decoded. In the
            second of two passes, these are the result of the first one, so `lr` is needed.
        lr_consistency: whether to make the downscaled result equal to `lr` (`back_project`).
        region: part of the image that is regenerated. It is applied last, so that no other step
            changes the image outside of it. Exception: if the LR image is grey, the whole result
            is made grey.
    """

    color_fix: str = "wavelet"
    size: tuple[int, int] | None = None
    lr: Picture | None = None
    lr_consistency: bool = False
    region: Region | None = None

    def __call__(self, sr: Tensor, lr: Picture, images: slice) -> tuple[Tensor, float]:
        """Post-process some images of a batch, on the device of `sr`. Grey images stay grey.

        Args:
            sr: [n,3,4h,4w] in [0,1]; it may be modified.
            lr: the n LR images, h x w.
            images: indices of these images in the batch, to select from `lr` and `region`.

        Returns:
            [n,3,H,W] in [0,1], and the mean LR-PSNR in dB.

        Raises:
            ValueError: `sr` is not finite.
        """
        if not sr.isfinite().all():
            raise ValueError(
                "The decoded image has NaN or infinite values. Choose precision fp32 or bf16 for "
                "the models."
            )
        h, w, wrap = *lr.size[1:], lr.wrap
        if chosen := COLOR_FIXES[self.color_fix]:
            fix, reach = chosen
            reference = resample(lr.rgb.to(sr.device), SCALE * h, SCALE * w, wrap).clamp_(0, 1)
            sr = surround(fix, sr, reference, reach=reach, wrap=wrap)
        size = self.size or (SCALE * h, SCALE * w)
        sr = resample(sr, *size, wrap).clamp_(0, 1)
        original = lr if self.lr is None else self.lr[images]
        original = replace(original, rgb=original.rgb.to(sr.device))
        if self.lr_consistency:
            sr = back_project(sr, original)
        if self.region:
            assert self.region.start is not None
            _, h, w = original.size
            mask = self.region.mask[images].to(sr.device)
            weights = mask_weights(mask, h, w, self.region.feather, wrap, size)
            start = resample(self.region.start[images].to(sr.device), *size, wrap)
            sr = blend(sr, start.clamp(0, 1), weights)
        grey = is_grey(original.rgb).to(sr).view(-1, 1, 1, 1)
        sr.lerp_(sr.mean(dim=1, keepdim=True).expand_as(sr), grey)
        return sr, lr_psnr(sr, original)
