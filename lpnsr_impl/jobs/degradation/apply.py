"""Applies degradations to pictures [B,3,H,W] in [0,1]. Uses no global random state."""

import io
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ...config import SCALE
from .parameters import Blur, Degradation, Noise, Order, ResizeMode


def degrade(hr: Tensor, degradations: Degradation | Sequence[Degradation]) -> Tensor:
    """Degrade HR pictures to LR pictures with 1/4 of the height and width.

    Args:
        hr: [B,3,H,W] in [0,1]; H and W multiples of 4.
        degradations: one degradation for the whole batch, or a sequence with one per picture.

    Returns:
        LR, [B,3,H/4,W/4] in [0,1], rounded to 8 bits.

    Raises:
        ValueError: the shape is wrong, or the number of degradations is not B.
    """
    if hr.ndim != 4 or hr.shape[1] != 3 or hr.shape[2] % SCALE or hr.shape[3] % SCALE:
        raise ValueError(
            f"degrade got {tuple(hr.shape)}, expected [B,3,H,W] with H and W multiples of {SCALE}."
        )
    if isinstance(degradations, Degradation):
        return _degrade(hr, degradations)
    if len(degradations) != hr.shape[0]:
        raise ValueError(
            f"degrade got {len(degradations)} degradations for {hr.shape[0]} pictures, expected "
            "one for each."
        )
    return torch.cat([_degrade(x, d) for x, d in zip(hr.split(1), degradations, strict=True)])


def _degrade(hr: Tensor, d: Degradation) -> Tensor:
    h, w = hr.shape[2] // SCALE, hr.shape[3] // SCALE
    x = _apply_order(hr, d.first, hr.shape[2], hr.shape[3])
    x = jpeg(x, d.first_jpeg)
    if d.second:
        x = _apply_order(x, d.second, h, w)
    if not d.jpeg_last:
        x = jpeg(x, d.final_jpeg)
    x = resize(x, h, w, d.final_mode)
    if d.final_sinc:
        x = blur(x, d.final_sinc)
    if d.jpeg_last:
        x = jpeg(x, d.final_jpeg)
    return (x.clamp(0, 1) * 255).round() / 255


def _apply_order(x: Tensor, order: Order, h: int, w: int) -> Tensor:
    """Apply one order of the degradation: blur, resize, add noise.

    x: [B,3,H,W] -> [B,3,h*scale,w*scale], with scale = `order.resize.scale`
    """
    if order.blur:
        x = blur(x, order.blur)
    scale = order.resize.scale
    x = resize(x, max(1, round(h * scale)), max(1, round(w * scale)), order.resize.mode)
    return add_noise(x, order.noise)


def blur(x: Tensor, settings: Blur) -> Tensor:
    """Filter each channel with the blur kernel, with reflection padding.

    x: [B,C,H,W] -> [B,C,H,W]
    """
    half = settings.kernel.shape[0] // 2
    # Reflection padding must be smaller than the picture.
    mode = "reflect" if min(x.shape[2:]) > half else "replicate"
    padded = F.pad(x, (half, half, half, half), mode=mode)
    kernel = settings.kernel.to(x).expand(x.shape[1], 1, -1, -1)
    return F.conv2d(padded, kernel, groups=x.shape[1])


def resize(x: Tensor, h: int, w: int, mode: ResizeMode) -> Tensor:
    """Resize without antialiasing, as Real-ESRGAN does. x: [B,C,H,W] -> [B,C,h,w]"""
    if tuple(x.shape[2:]) == (h, w):
        return x
    return F.interpolate(x, (h, w), mode=mode, align_corners=None if mode == "area" else False)


def add_noise(x: Tensor, noise: Noise) -> Tensor:
    """Add Gaussian or Poisson noise and clamp to [0,1]. Grey noise is equal in all channels.

    Poisson noise simulates photon counts. White corresponds to N photons, where N is the number of
    distinct values in the picture, rounded up to a power of 2. `level` scales the noise.
    """
    generator = torch.Generator(x.device).manual_seed(noise.seed)
    x = x.clamp(0, 1)
    if noise.kind == "gaussian":
        shape = (x.shape[0], 1 if noise.grey else x.shape[1], *x.shape[2:])
        n = noise.level * torch.randn(shape, generator=generator, device=x.device)
    else:
        clean = x
        if noise.grey:
            weights = torch.tensor([0.299, 0.587, 0.114]).to(x)[:, None, None]
            clean = (x * weights).sum(dim=1, keepdim=True)
        eight_bit = (clean * 255).round() / 255
        levels = torch.tensor([len(picture.unique()) for picture in eight_bit]).to(x)
        counts = (2 ** torch.ceil(torch.log2(levels.clamp(min=2)))).view(-1, 1, 1, 1)
        photons = torch.poisson(eight_bit * counts, generator=generator)
        n = noise.level * (photons / counts - eight_bit)
    return (x + n).clamp(0, 1)


def jpeg(x: Tensor, quality: int) -> Tensor:
    """Compress to JPEG of the given quality, and decompress. x: [B,3,H,W] -> [B,3,H,W]"""
    eight_bit = (x.clamp(0, 1) * 255).round().to("cpu", torch.uint8).movedim(1, -1)
    decoded: list[Tensor] = []
    for picture in eight_bit.contiguous().numpy():
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=quality)
        decoded.append(torch.from_numpy(np.array(Image.open(file))))
    return torch.stack(decoded).movedim(-1, 1).to(x) / 255
