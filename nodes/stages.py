"""The stages of an upscale as nodes have them: IMAGEs and LATENTs around the engine's tensors."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from ..lpnsr_impl.config import SCALE, Wrap
from ..lpnsr_impl.engine.engine import Engine, Sampling, Start, made_start
from ..lpnsr_impl.engine.finish import Finish
from ..lpnsr_impl.engine.tiles import Tiling
from ..lpnsr_impl.method.sampler import StepCallback
from ..lpnsr_impl.pictures.picture import Picture
from ..lpnsr_impl.pictures.wrap import for_model, from_model, upsampled
from . import host
from .models import Condition, LPNSRModels, pack_latent, unpack_latent


def engine_for(
    models: LPNSRModels, tile_size: int, overlap: int, progress: host.Progress
) -> Engine:
    """The engine, in ComfyUI's memory, with what the widgets say of tiles.

    Raises:
        ValueError: a size is negative.
    """
    return Engine(models, host.Memory(), Tiling(tile_size, overlap), progress)


def start_by(upscale_model: Any | None) -> Start | None:
    """Starts by an UPSCALE_MODEL; None for bicubic."""
    if upscale_model is None:
        return None
    return lambda lr, wrap: _by_model(upscale_model, lr, wrap)


def _by_model(upscale_model: Any, lr: Tensor, wrap: Wrap) -> Tensor:
    """y0-hat by an SR network. [B,3,h,w] -> [B,3,4h,4w], in [0,1]

    Raises:
        ValueError: the model reads neither RGB nor grey, or gives no finite picture.
    """
    channels = upscale_model.input_channels
    if channels not in (1, 3) or upscale_model.output_channels != channels:
        raise ValueError(
            f"The upscale model reads {channels} and writes {upscale_model.output_channels} "
            "channels, expected 3 and 3 (RGB), or 1 and 1 (grey). Choose another one in Load "
            "Upscale Model."
        )
    b, _, h, w = lr.shape
    x = for_model(lr, wrap)
    if channels == 1:
        x = x.reshape(3 * b, 1, *x.shape[2:])  # each of R, G and B as a grey picture
    y = host.run_upscale_model(upscale_model, x.movedim(1, -1)).movedim(-1, 1)
    if not y.isfinite().all():
        raise ValueError(
            "The upscale model gave NaN or infinite values. Its file may be damaged; choose "
            "another one in Load Upscale Model."
        )
    y = y[:, :channels].reshape(b, 3, *y.shape[2:])
    return from_model(y, upscale_model.scale, h, w, wrap).clamp(0, 1).to(lr.device)


def pre_upsample(lr: Picture, upscale_model: Any | None, wrap: Wrap) -> Picture:
    """Pictures exactly x4. Alpha is bicubic."""
    alpha = None if lr.alpha is None else upsampled(lr.alpha, wrap).clamp(0, 1)
    return Picture(made_start(lr.rgb, start_by(upscale_model), wrap), alpha)


def encode(
    engine: Engine, models: LPNSRModels, start: Picture, lr: Picture, wrap: Wrap
) -> dict[str, Any]:
    """LATENT of the pre-upsampled pictures, with the LR pictures and the axes of `wrap`.

    Raises:
        ValueError: `start` is not exactly four times as high and wide as `lr`, or of another batch
        size.
    """
    _check_start(start, lr.size)
    y0 = engine.encode(start.rgb, wrap)
    return pack_latent(y0, Condition.of(lr, models.family, start.alpha, wrap))


def sample(
    engine: Engine,
    models: LPNSRModels,
    latent: dict[str, Any],
    sampling: Sampling,
    lr: Picture | None = None,
    watch: StepCallback | None = None,
) -> dict[str, Any]:
    """LATENT of the super-resolved pictures.

    `lr` stands in for LR pictures that the latent does not carry; `watch` see `Engine.sample`.

    Raises:
        ValueError: the latent does not fit, or a predictor is needed that is not loaded.
    """
    if "noise_mask" in latent:
        raise ValueError(
            "This LATENT has a noise mask, and LPNSR has no part in masked sampling. Leave it "
            "away, and connect the mask to LPNSR Decode."
        )
    y0, condition = unpack_latent(latent, models, lr)
    x0 = engine.sample(y0, condition.lr, sampling, condition.wrap, watch)
    codes = models.denoiser.network.predicts_codes
    return pack_latent(x0, replace(condition, codes=codes))


def decode(
    engine: Engine,
    models: LPNSRModels,
    latent: dict[str, Any],
    finish: Finish,
    lr: Picture | None = None,
) -> tuple[Tensor, float]:
    """IMAGE exactly x4 the LR pictures, with their alpha, and its LR-PSNR.

    `lr` stands in for LR pictures that the latent does not carry.

    Raises:
        ValueError: the latent does not fit the models, or start and mask do not fit the latent.
    """
    x0, condition = unpack_latent(latent, models, lr)
    b, _, h, w = condition.lr.shape
    if finish.inside and finish.inside.start is not None:
        _check_start(Picture(finish.inside.start), (b, h, w))
    finish = replace(finish, alpha=condition.alpha)
    images, psnr = engine.decode(x0, condition.lr, finish, condition.wrap, codes=condition.codes)
    return images.movedim(1, -1), psnr


def _check_start(start: Picture, lr_size: tuple[int, int, int]) -> None:
    """
    Raises:
        ValueError: a start is not exactly four times as high and wide as its LR picture, or of
        another batch size.
    """
    b, h, w = lr_size
    if start.size != (b, SCALE * h, SCALE * w):
        raise ValueError(
            f"The pre-upsampled image is {_size(start.size)}, expected {b} of "
            f"{SCALE * w}x{SCALE * h}: exactly {SCALE} times the LR image, which is "
            f"{_size(lr_size)}. Make it with LPNSR Pre-Upsample from the same LR image."
        )


def _size(size: tuple[int, int, int]) -> str:
    b, h, w = size
    return f"{b} of {w}x{h}"
