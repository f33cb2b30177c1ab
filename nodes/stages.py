"""The four stages of an upscale. Each node runs one of them; LPNSR Upscale runs all."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..lpnsr_impl import Schedule
from ..lpnsr_impl.config import LPNSR_SCHEDULE, SCALE, PredictorMode, Wrap
from ..lpnsr_impl.engine.pipeline import decode_latent, encode_start, run_chain
from ..lpnsr_impl.method.sampler import StepCallback, predictor_steps, switches_for
from ..lpnsr_impl.pictures.color import COLOR_FIXES
from ..lpnsr_impl.pictures.consistency import back_project, lr_psnr
from ..lpnsr_impl.pictures.images import to_01
from ..lpnsr_impl.pictures.masks import mask_weights, masked
from ..lpnsr_impl.pictures.wrap import for_model, from_model, resampled, upsampled
from . import host
from .images import Picture
from .memory import autoencoder_activations, unet_activations
from .models import Condition, LPNSRModels, pack_latent, unpack_latent
from .tiles import Call, Tiles, Tiling


@dataclass(frozen=True)
class Regenerate:
    """Where to show the result, and what to show elsewhere.

    start: pre-upsampled pictures; mask: [B,1,*,*] in [0,1], 1 for the result; feather: in LR
    pixels.
    """

    start: Picture
    mask: Tensor
    feather: int


@dataclass(frozen=True)
class Finish:
    """What becomes of x4 pictures: they are downscaled to `size`, (H, W), and agree with `lr`.

    lr: the pictures before any pass; masks have their shape, and feathers are in their pixels.
    """

    lr: Picture
    size: tuple[int, int]


def pre_upsample(lr: Picture, upscale_model: Any | None, wrap: Wrap = "none") -> Picture:
    """y0-hat: the LR picture exactly x4, by an SR network (PreSet-B) or bicubic (PreSet-A).

    Alpha is bicubic. In the axes of `wrap` the picture goes on periodically.

    Raises:
        ValueError: the model reads neither RGB nor grey, or gives no finite picture.
    """
    alpha = None if lr.alpha is None else upsampled(lr.alpha, wrap).clamp(0, 1)
    if upscale_model is None:
        return Picture(upsampled(lr.rgb, wrap), alpha)

    channels = upscale_model.input_channels
    if channels not in (1, 3) or upscale_model.output_channels != channels:
        raise ValueError(
            f"The upscale model reads {channels} and writes {upscale_model.output_channels} "
            "channels, expected 3 and 3 (RGB), or 1 and 1 (grey). Choose another one in Load "
            "Upscale Model."
        )
    b, h, w = lr.size
    x = for_model(lr.rgb, wrap)
    if channels == 1:
        x = x.reshape(3 * b, 1, *x.shape[2:])  # each of R, G and B as a grey picture
    y = host.run_upscale_model(upscale_model, x.movedim(1, -1)).movedim(-1, 1)
    if not y.isfinite().all():
        raise ValueError(
            "The upscale model gave NaN or infinite values. Its file may be damaged; choose "
            "another one in Load Upscale Model."
        )
    y = y[:, :channels].reshape(b, 3, *y.shape[2:])
    y = from_model(y, upscale_model.scale, h, w, wrap)
    return Picture(y.clamp(0, 1).to(lr.rgb.device), alpha)


def check_chain(
    models: LPNSRModels, steps: int, predictor_on: Mapping[int, bool]
) -> Mapping[int, bool]:
    """Check that the models can run these steps.

    Returns:
        The switches that apply. With a denoiser of another number of steps than 4 and no predictor
        none does: there is no predictor to choose for ResShift's 15-step models and their students.

    Raises:
        ValueError: the denoiser has fewer steps, or there is no predictor for a switch that is on.
    """
    if models.student:
        return {}
    num_timesteps = models.denoiser.network.schedule.num_timesteps
    if steps > num_timesteps:
        raise ValueError(
            f"steps is {steps}, but this denoiser has {num_timesteps} steps. Set steps to "
            f"{num_timesteps} or less."
        )
    if num_timesteps != LPNSR_SCHEDULE.num_timesteps and models.noise_predictor is None:
        return {}
    predictor_on = switches_for(num_timesteps, predictor_on)
    predictor_at = predictor_steps(steps, predictor_on)
    if predictor_at and models.noise_predictor is None:
        raise ValueError(
            f"The noise predictor is switched on at t = {', '.join(map(str, predictor_at))}, but "
            "Load LPNSR Models has noise_predictor 'none'. Choose one there, or switch the "
            "predictor off."
        )
    return predictor_on


ENCODE_WORK, DECODE_WORK = 4.0, 5.0
"""In calls of the denoiser, as `python -m tests.bench.speed` measures them."""

_STARTS_AT_ONCE = 4
"""Pictures of a batch that are pre-upsampled before they are encoded."""


def sample_work(models: LPNSRModels, steps: int, predictor_on: Mapping[int, bool]) -> float:
    """Calls of networks for one picture."""
    return 1 if models.student else steps + len(predictor_steps(steps, predictor_on))


def start_latent(
    models: LPNSRModels,
    lr: Picture,
    upscale_model: Any | None,
    tiling: Tiling,
    progress: host.Progress,
    wrap: Wrap = "none",
    on_start: Callable[[Picture], None] | None = None,
) -> dict[str, Any]:
    """`pre_upsample` and `encode`, a few pictures of the batch at a time.

    So the memory that a video needs does not grow with its length. `on_start` is called with the
    pre-upsampled pictures, a few at a time.
    """
    samples: list[Tensor] = []
    alphas: list[Tensor] = []
    for part in lr.split(_STARTS_AT_ONCE):
        start = pre_upsample(part, upscale_model, wrap)
        samples.append(encode(models, start, part, tiling, progress, wrap)["samples"])
        if start.alpha is not None:
            alphas.append(start.alpha)
        if on_start:
            on_start(start)
    alpha = torch.cat(alphas) if alphas else None
    return pack_latent(torch.cat(samples), Condition.of(lr, models.family, alpha, wrap))


def encode(
    models: LPNSRModels,
    start: Picture,
    lr: Picture,
    tiling: Tiling,
    progress: host.Progress,
    wrap: Wrap = "none",
) -> dict[str, Any]:
    """LATENT of the pre-upsampled pictures, with the LR pictures and the axes of `wrap`.
    `ENCODE_WORK` for each.

    Raises:
        ValueError: `start` is not exactly four times as high and wide as `lr`, or of another batch
        size.
    """
    _check_start(start, lr.size)
    b, h, w = lr.size
    size = models.denoiser.network.config.padded(h, w, wrap)
    tiles = _autoencoder_tiles(models, (h, w), tiling, progress, wrap)
    autoencoder, device = models.autoencoder.network, models.autoencoder.device
    latents: list[Tensor] = []
    for i, x in enumerate(start.rgb.split(1)):
        y0 = tiles.run(
            lambda plan, on_tile, x=x: encode_start(
                autoencoder, x, size, plan, on_tile, device, wrap
            ),
            [Call(_of_batch(i, b, "encoding"), ENCODE_WORK)],
        )
        latents.append(host.as_result(y0))
    return pack_latent(torch.cat(latents), Condition.of(lr, models.family, start.alpha, wrap))


def sample(
    models: LPNSRModels,
    latent: dict[str, Any],
    *,
    seed: int,
    steps: int,
    kappa: float,
    predictor_on: Mapping[int, bool],
    predictor_mode: PredictorMode,
    tiling: Tiling,
    progress: host.Progress,
    lr: Picture | None = None,
    watch: Callable[[Schedule], StepCallback] | None = None,
) -> dict[str, Any]:
    """LATENT of the super-resolved pictures. `sample_work` for each.

    Every picture of a batch starts from the same seed, so that it comes out as it would alone.
    A one-step student takes its step whatever `steps` says, and the node shows that.
    `lr` stands in for LR pictures that the latent does not carry.
    `watch` makes a callback of the chain for each picture.

    Raises:
        ValueError: the latent does not fit, or a predictor is needed that is not loaded.
    """
    if "noise_mask" in latent:
        raise ValueError(
            "This LATENT has a noise mask, and LPNSR has no part in masked sampling. Leave it "
            "away, and connect the mask to LPNSR Decode."
        )
    y0, condition = unpack_latent(latent, models, lr)
    predictor_on = check_chain(models, steps, predictor_on)
    denoiser, student = models.denoiser, models.student
    steps = 1 if student else steps
    predictor_at = predictor_steps(steps, predictor_on)
    predictor = models.noise_predictor if predictor_at else None
    if student:
        note = f"{student.name} takes its one step, whatever steps says"
    else:
        num_timesteps = denoiser.network.schedule.num_timesteps
        note = f"{steps} of the denoiser's {num_timesteps} steps"
    logging.info("LPNSR: %s, noise predictor %s.", note, "off" if predictor is None else "on")
    in_use = [denoiser] if predictor is None else [denoiser, predictor]
    b, _, h, w = condition.lr.shape
    tiles = Tiles(
        in_use,
        (h, w),
        denoiser.network.config,
        tiling,
        lambda *tile: unet_activations(denoiser, *tile),
        progress,
        condition.wrap,
        note if student else "",
    )
    schedule = Schedule(**vars(denoiser.network.schedule), kappa=kappa)
    results: list[Tensor] = []
    for i, (y0_i, lr_i) in enumerate(zip(y0.split(1), condition.lr.split(1), strict=True)):
        preview = host.latent_previewer(y0_i, lr_i)
        on_step = _on_step(progress, preview, watch(schedule) if watch else None)
        x0 = tiles.run(
            lambda plan, on_tile, y0_i=y0_i, lr_i=lr_i, on_step=on_step: run_chain(
                denoiser.network,
                None if predictor is None else predictor.network,
                schedule,
                y0_i.to(denoiser.device),
                lr_i.to(denoiser.device),
                seed=seed,
                steps=steps,
                predictor_on=predictor_on,
                predictor_mode=predictor_mode,
                callback=on_step,
                plan=plan,
                on_tile=on_tile,
                wrap=condition.wrap,
            ),
            [
                Call(_of_batch(i, b, f"step {steps - t + 1}/{steps}"))
                for t in range(steps, 0, -1)
                for _ in range(2 if t in predictor_at else 1)
            ],
        )
        results.append(host.as_result(x0))
    codes = denoiser.network.predicts_codes
    return pack_latent(torch.cat(results), replace(condition, codes=codes))


def decode(
    models: LPNSRModels,
    latent: dict[str, Any],
    color_fix: str,
    tiling: Tiling,
    progress: host.Progress,
    lr: Picture | None = None,
    *,
    lr_consistency: bool = False,
    regenerate: Regenerate | None = None,
    finish: Finish | None = None,
) -> tuple[Tensor, float]:
    """IMAGE exactly x4 the LR pictures, or as `finish` says, with their alpha, and its LR-PSNR.
    `DECODE_WORK` for each.

    With `lr_consistency` the result, downscaled, is the LR picture (`consistency.back_project`).
    `regenerate` comes last, so that nothing else changes what is kept of the start.

    `lr` stands in for LR pictures that the latent does not carry.

    Raises:
        ValueError: the latent does not fit the models, or start and mask do not fit the latent.
    """
    samples, condition = unpack_latent(latent, models, lr)
    b, _, h, w = condition.lr.shape
    wrap = condition.wrap
    if regenerate:
        _check_start(regenerate.start, (b, h, w))
    tiles = _autoencoder_tiles(models, (h, w), tiling, progress, wrap)
    autoencoder, device = models.autoencoder.network, models.autoencoder.device
    fix = COLOR_FIXES[color_fix]
    on = host.result_device()
    size = finish.size if finish else (SCALE * h, SCALE * w)
    alpha = finish.lr.alpha if finish else condition.alpha
    shape = (b, *size, 3 if alpha is None else 4)
    image = torch.empty(shape, device=on, dtype=host.result_dtype())
    psnr = 0.0
    for i in range(b):
        x0, lr_i = samples[i : i + 1].to(device), condition.lr[i : i + 1].to(on)
        rgb = tiles.run(
            lambda plan, on_tile, x0=x0, lr_i=lr_i: decode_latent(
                autoencoder, x0, lr_i, fix, plan, on_tile, on, wrap, condition.codes
            ),
            [Call(_of_batch(i, b, "decoding"), DECODE_WORK)],
        )
        if not rgb.isfinite().all():
            raise ValueError(
                "The decoded image has NaN or infinite values. Choose precision fp32 or bf16 in "
                "Load LPNSR Models."
            )
        original = finish.lr.rgb[i : i + 1].to(on) if finish else to_01(lr_i)
        if finish:
            rgb = resampled(rgb, *size, wrap).clamp_(0, 1)
        if lr_consistency:
            rgb = back_project(rgb, original, wrap=wrap)
        if regenerate:
            mask, feather = regenerate.mask[i : i + 1].to(on), regenerate.feather
            weights = mask_weights(mask, *original.shape[2:], feather, wrap, size)
            start = resampled(regenerate.start.rgb[i : i + 1].to(on), *size, wrap)
            rgb = masked(rgb, start.clamp(0, 1), weights)
        psnr += lr_psnr(rgb, original, wrap) / b
        image[i, :, :, :3] = rgb[0].movedim(0, 2)
        if alpha is not None:
            image[i, :, :, 3] = resampled(alpha[i : i + 1], *size, wrap)[0, 0].clamp(0, 1)
    return image, psnr


def _autoencoder_tiles(
    models: LPNSRModels,
    size: tuple[int, int],
    tiling: Tiling,
    progress: host.Progress,
    wrap: Wrap,
) -> Tiles:
    managed = models.autoencoder
    return Tiles(
        [managed],
        size,
        models.denoiser.network.config,
        tiling,
        lambda h, w: autoencoder_activations(managed, SCALE * h, SCALE * w),
        progress,
        wrap,
    )


def _on_step(
    progress: host.Progress,
    preview: Callable[[Tensor], host.Preview | None],
    watching: StepCallback | None,
) -> StepCallback:
    def on_step(t: int, x_t: Tensor, x0_pred: Tensor) -> None:
        progress.show(preview(x0_pred))
        if watching:
            watching(t, x_t, x0_pred)

    return on_step


def _of_batch(i: int, b: int, text: str) -> str:
    return f"picture {i + 1}/{b}, {text}" if b > 1 else text


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
