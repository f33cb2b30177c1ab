"""Value ranges, channels and padding of image tensors [B,C,h,w]."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import SCALE

SMALLEST_MODEL_INPUT = 64
"""Minimum height and width of the input of upscale models, because some of them use attention
windows."""

OPAQUE = 1 - 4.001 / 255
"""Images are treated as opaque if alpha is nowhere below this value."""

_TRUST = 8
"""`fill_transparent` keeps the colours of pixels whose alpha is at least 1 / _TRUST."""


def to_pm1(x_01: Tensor) -> Tensor:
    """Map values from [0,1] to [-1,1]."""
    return 2 * x_01 - 1


def to_01(x_pm1: Tensor) -> Tensor:
    """Map values from [-1,1] to [0,1], and clamp them."""
    return ((x_pm1 + 1) / 2).clamp(0, 1)


def bicubic_upsample(x: Tensor) -> Tensor:
    """Upscale by bicubic interpolation, as PreSet-A does before the diffusion.

    x: [B,C,h,w] -> [B,C,4h,4w]. Values may overshoot at edges.
    """
    return F.interpolate(x, scale_factor=float(SCALE), mode="bicubic", align_corners=False)


def reflect_pad(x: Tensor, h: int, w: int) -> Tensor:
    """Pad x to [B,C,h,w] by reflection at the bottom and right edges.

    Unlike `torch.nn.functional.pad`, it reflects repeatedly if needed, so it works for all sizes
    from 1x1.

    Raises:
        ValueError: h or w is smaller than the size of x.
    """
    if h < x.shape[2] or w < x.shape[3]:
        raise ValueError(
            f"Cannot pad height {x.shape[2]} and width {x.shape[3]} to {h} and {w}; expected a "
            "target that is at least as large."
        )
    for dim, size in ((2, h), (3, w)):
        n = x.shape[dim]
        if size > n:
            index = torch.arange(size, device=x.device) % max(2 * (n - 1), 1)
            x = x.index_select(dim, torch.where(index < n, index, 2 * (n - 1) - index))
    return x


def fit_rgb_factors(latent: Tensor, rgb: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a linear map from latents to colours, for previews: rgb = latent @ factors + bias.

    Latent and LR image have the same size, so the map is fitted to the pixels of the LR image by
    least squares.

    Args:
        latent: [B,C,h,w].
        rgb: LR image, [B,3,h,w].

    Returns:
        factors [C,3] and bias [3], float32 on the CPU.
    """
    x = latent.float().cpu().movedim(1, 3).reshape(-1, latent.shape[1])
    y = rgb.float().cpu().movedim(1, 3).reshape(-1, 3)
    with_one = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    solution = torch.linalg.lstsq(with_one, y, driver="gelsd").solution  # gelsd allows any rank
    return solution[:-1], solution[-1]


def padded_size(h: int, w: int, multiple: int) -> tuple[int, int]:
    """Round h and w up to multiples of `multiple`."""
    return -(-h // multiple) * multiple, -(-w // multiple) * multiple


def split_channels(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Split an image into colours and alpha.

    Colours of nearly transparent pixels are replaced (`fill_transparent`). An alpha channel that is
    nearly opaque everywhere is dropped: it is noise from a VAE that decodes to RGBA, and video
    encoders do not accept an alpha channel.

    Args:
        x: [B,C,h,w] with 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 (RGBA) channels.

    Returns:
        rgb [B,3,h,w], and alpha [B,1,h,w] in [0,1], or None for opaque images.
    """
    num_colors = 1 if x.shape[1] < 3 else 3
    rgb, alpha = x[:, :num_colors].expand(-1, 3, -1, -1), x[:, num_colors:].clamp(0, 1)
    if alpha.shape[1] == 0 or alpha.min() >= OPAQUE:
        return rgb, None
    return fill_transparent(rgb, alpha), alpha


def is_grey(rgb: Tensor) -> Tensor:
    """Return for each image whether it is grey: its channels differ by at most 1/255.

    rgb: [B,3,h,w] in [0,1] -> bool [B]
    """
    chroma = rgb.amax(dim=1) - rgb.amin(dim=1)
    return chroma.amax(dim=(1, 2)) <= 1.001 / 255


def fill_transparent(rgb: Tensor, alpha: Tensor) -> Tensor:
    """Replace the colours of nearly transparent pixels by those of their surroundings.

    Files may contain any colour in transparent pixels, often black or white. The networks would
    spread it to visible edges.

    Args:
        rgb: [B,3,h,w], not multiplied by alpha.
        alpha: [B,1,h,w] in [0,1].

    Returns:
        [B,3,h,w], unchanged where alpha is 1/8 or more.
    """
    return torch.where(_TRUST * alpha >= 1, rgb, _push_pull(rgb * alpha, alpha))


def _push_pull(weighted: Tensor, weights: Tensor) -> Tensor:
    """Return weighted / weights. Where weights are small, blend it with the result at half
    the resolution, which is computed recursively."""
    own = weighted / weights.clamp_min(1e-8)
    trust = (_TRUST * weights).clamp(max=1) ** 2
    h, w = weights.shape[2:]
    if h * w == 1 or bool((trust == 1).all()):
        return own
    coarse = _push_pull(*(F.avg_pool2d(x, 2, ceil_mode=True) for x in (weighted, weights)))
    smooth = F.interpolate(coarse, size=(h, w), mode="bilinear", align_corners=False)
    return torch.lerp(smooth, own, trust)
