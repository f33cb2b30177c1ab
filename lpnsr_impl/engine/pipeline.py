"""What a picture of any size needs around the chain: padding, noise from a seed, colours.

`encode_start`, `run_chain` and `decode_latent` are the three stages that nodes and evaluation
share.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from ..config import SCALE, PredictorMode, Wrap
from ..main_memory import give_back
from ..method.sampler import ALL_ON, NoiseSource, StepCallback, sample, sample_once
from ..method.schedule import Schedule
from ..models import Autoencoder, Denoiser, NoisePredictor
from ..pictures.images import to_01, to_pm1
from ..pictures.tiling import TilePlan, apply_tiled
from ..pictures.wrap import agreed, continued, upsampled

ColorFix = Callable[[Tensor, Tensor, Wrap], Tensor]

_PLANES = 1 << 31
"""Bit of the seed that is turned for a student's planes, one that PyTorch's generator looks at."""


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
    """The chain of `sampler.sample` on a padded latent, with noise of a seed.

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
    noise = seeded_noise(seed, schedule.num_timesteps)
    h, w = lr.shape[2:]

    def call(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        return agreed(apply_tiled(function, inputs, plan, callback=on_tile), h, w, wrap)

    tiled, padded = _tiled_denoiser(denoiser, call), continued(lr, *y0.shape[2:], wrap=wrap)
    noise = continued_noise(noise, h, w, wrap)
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
    lr: Tensor,
    color_fix: ColorFix | None,
    plan: TilePlan | None = None,
    on_tile: Callable[[], None] | None = None,
    device: torch.device | None = None,
    wrap: Wrap = "none",
    quantize: bool = True,
) -> Tensor:
    """Picture of a padded latent, cut to size, its colours those of bicubic x4.

    Args:
        x0: padded, [B,C,H,W].
        lr: not padded, [B,3,h,w] in [-1,1], on `device`.
        color_fix: fix(sr, reference, wrap), or None.
        plan: tiles of the padded latent; None for the whole at once.
        on_tile: called after each tile.
        device: of the result; None for that of the autoencoder. Elsewhere, a picture of any size
            needs no more of the autoencoder's memory than a tile does.
        wrap: axes in which the picture goes on periodically, and `x0` does.
        quantize: whether the nearest codes are decoded, or x0 as it is.

    Returns:
        [B,3,4h,4w] in [0,1].
    """
    h, w = lr.shape[2:]
    sr = apply_tiled(
        partial(autoencoder.decode, quantize=quantize),
        [x0],
        plan,
        output_scale=SCALE,
        callback=on_tile,
        device=device,
    )
    give_back(x0.device)
    sr = agreed(sr, SCALE * h, SCALE * w, wrap)
    sr = to_01(sr[:, :, : SCALE * h, : SCALE * w])
    return color_fix(sr, to_01(upsampled(lr, wrap)), wrap) if color_fix else sr


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


def seeded_noise(seed: int, num_timesteps: int = 4) -> NoiseSource:
    """A noise source that depends on the seed and the shape alone.

    All that a run could ask for is drawn in one fixed order from a private CPU generator. So the
    start is the same for any number of steps, and no switch changes the noise of another step. The
    planes of noise that a student reads have a generator of their own.

    Args:
        seed: 0 to 2^64 - 1.
        num_timesteps: T.

    Returns:
        noise(kind, t, shape) -> float32 CPU tensor.
    """

    def noise(kind: str, t: int, shape: torch.Size) -> Tensor:
        if kind == "plane":
            return torch.randn(shape, generator=_generator(seed ^ _PLANES))
        generator = _generator(seed)
        draws = [("init", None), *(("step", step) for step in range(num_timesteps, 1, -1))]
        wanted = ("init", None) if kind == "init" else (kind, t)
        for draw in draws:
            n = torch.randn(shape, generator=generator)
            if draw == wanted:
                return n
        raise ValueError(
            f"There is no noise of kind {kind!r} at t = {t}; expected 'init' or 'plane', or 'step' "
            "at 2 to T."
        )

    return noise


def _generator(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def continued_noise(noise: NoiseSource, h: int, w: int, wrap: Wrap = "none") -> NoiseSource:
    """Noise for a padded latent: drawn at the picture's own h and w, and continued as it is.

    So the noise inside the picture does not depend on the padding.
    """

    def source(kind: str, t: int, shape: torch.Size) -> Tensor:
        return continued(noise(kind, t, torch.Size((*shape[:2], h, w))), *shape[2:], wrap=wrap)

    return source


def pad_start(start: Tensor, h: int, w: int, wrap: Wrap = "none") -> Tensor:
    """Mirror the x4 start, or continue it where it wraps, so that its latent has the size h x w.

    It is mirrored as its LR picture is, which is what the published inference pads.
    [B,3,4h,4w] -> [B,3,4H,4W]
    """
    return continued(start, SCALE * h, SCALE * w, wrap, block=SCALE)
