"""The three stages for pictures of one size, in given tiles: encode, the chain, decode.

`Engine` plans the tiles.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from ..config import SCALE, PredictorMode, Wrap
from ..main_memory import give_back
from ..method.sampler import ALL_ON, StepCallback, sample, sample_once
from ..method.schedule import Schedule
from ..models import Autoencoder, Denoiser, NoisePredictor
from ..pictures.images import to_01, to_pm1
from ..pictures.tiling import TilePlan, apply_tiled
from ..pictures.wrap import agreed, continued
from .noise import continued_noise, seeded_noise


def encode_start(
    autoencoder: Autoencoder,
    start: Tensor,
    size: tuple[int, int],
    plan: TilePlan | None = None,
    on_tile: Callable[[], None] | None = None,
    device: torch.device | None = None,
    wrap: Wrap = "none",
) -> Tensor:
    """y0 of a pre-upsampled picture, padded to what the denoiser's windows need.

    Args:
        autoencoder: encodes.
        start: [B,3,4h,4w] in [0,1].
        size: (H, W) of the padded latent, see `UNetConfig.padded`.
        plan: tiles of the padded latent; None for the whole at once.
        on_tile: called after each tile.
        device: of the autoencoder, where `start` is elsewhere; tiles go there one by one.
        wrap: axes in which the picture goes on periodically.

    Returns:
        [B,C,H,W].
    """
    x = pad_start(to_pm1(start), *size, wrap)
    y0 = apply_tiled(
        lambda tile: autoencoder.encode(tile.to(device)),
        [x],
        plan,
        input_scale=SCALE,
        callback=on_tile,
    )
    give_back(y0.device)
    return agreed(y0, start.shape[2] // SCALE, start.shape[3] // SCALE, wrap)


def run_chain(
    denoiser: Denoiser,
    noise_predictor: NoisePredictor | None,
    schedule: Schedule,
    y0: Tensor,
    lr: Tensor,
    *,
    seed: int,
    steps: int = 4,
    predictor_on: Mapping[int, bool] = ALL_ON,
    predictor_mode: PredictorMode = "sample",
    callback: StepCallback | None = None,
    plan: TilePlan | None = None,
    on_tile: Callable[[], None] | None = None,
    wrap: Wrap = "none",
) -> Tensor:
    """The chain of `sampler.sample` on padded latents, with noise of a seed: the same for each of
    a batch, so that a picture comes out as it would alone.

    A student runs its one step instead (`sampler.sample_once`), whatever `steps` and the arguments
    of the predictor say.

    In tiles, every network call is tiled and blended: neighbours agree on x0_pred before the next
    step. Noise is drawn for the whole picture, so it does not depend on the tiles.

    Args:
        y0: padded, [B,C,H,W].
        lr: not padded, [B,3,h,w] in [-1,1].
        seed: 0 to 2^64 - 1.
        plan: tiles of the padded latent; None for the whole at once.
        on_tile: called after each tile of each network.
        wrap: axes in which the picture goes on periodically, and `y0` does.

    Returns:
        x0, padded, [B,C,H,W].
    """
    h, w = lr.shape[2:]
    noise = continued_noise(seeded_noise(seed, schedule.num_timesteps), h, w, wrap)

    def call(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        return agreed(apply_tiled(function, inputs, plan, callback=on_tile), h, w, wrap)

    tiled, padded = _tiled_denoiser(denoiser, call), continued(lr, *y0.shape[2:], wrap=wrap)
    if denoiser.student:
        x0 = sample_once(
            tiled, denoiser.student, schedule, y0, padded, noise=noise, callback=callback
        )
    else:
        x0 = sample(
            tiled,
            None if noise_predictor is None else _tiled_predictor(noise_predictor, call),
            schedule,
            y0,
            padded,
            steps=steps,
            predictor_on=predictor_on,
            predictor_mode=predictor_mode,
            noise=noise,
            callback=callback,
        )
    give_back(x0.device)
    return x0


def decode_latent(
    autoencoder: Autoencoder,
    x0: Tensor,
    size: tuple[int, int],
    plan: TilePlan | None = None,
    on_tile: Callable[[], None] | None = None,
    device: torch.device | None = None,
    wrap: Wrap = "none",
    quantize: bool = True,
) -> Tensor:
    """Picture of a padded latent, cut to size.

    Args:
        x0: padded, [B,C,H,W].
        size: (h, w) of the LR picture.
        plan: tiles of the padded latent; None for the whole at once.
        on_tile: called after each tile.
        device: of the result; None for that of the autoencoder. Elsewhere, a picture of any size
            needs no more of the autoencoder's memory than a tile does.
        wrap: axes in which the picture goes on periodically, and `x0` does.
        quantize: whether the nearest codes are decoded, or x0 as it is.

    Returns:
        [B,3,4h,4w] in [0,1].
    """
    h, w = (SCALE * side for side in size)
    sr = apply_tiled(
        partial(autoencoder.decode, quantize=quantize),
        [x0],
        plan,
        output_scale=SCALE,
        callback=on_tile,
        device=device,
    )
    give_back(x0.device)
    return to_01(agreed(sr, h, w, wrap)[:, :, :h, :w])


def _tiled_denoiser(
    denoiser: Denoiser, call: Callable[..., Tensor]
) -> Callable[[Tensor, int, Tensor], Tensor]:
    def tiled(x_scaled: Tensor, t_index: int, lr: Tensor) -> Tensor:
        return call(lambda x, lr: denoiser(x, t_index, lr), x_scaled, lr)

    return tiled


def _tiled_predictor(
    noise_predictor: NoisePredictor, call: Callable[..., Tensor]
) -> Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]:
    def tiled(x_t: Tensor, x0_pred: Tensor, lr: Tensor, t_index: int) -> tuple[Tensor, Tensor]:
        both = call(lambda *x: torch.cat(noise_predictor(*x, t_index), dim=1), x_t, x0_pred, lr)
        mean, logvar = both.chunk(2, dim=1)
        return mean, logvar

    return tiled


def pad_start(start: Tensor, h: int, w: int, wrap: Wrap = "none") -> Tensor:
    """Mirror the x4 start, or continue it where it wraps, so that its latent has the size h x w.

    It is mirrored as its LR picture is, which is what the published inference pads.
    [B,3,4h,4w] -> [B,3,4H,4W]
    """
    return continued(start, SCALE * h, SCALE * w, wrap, block=SCALE)
