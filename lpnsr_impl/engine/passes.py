"""The whole method, in as many passes of x4 as the size wanted takes."""

from dataclasses import replace

import torch
from torch import Tensor

from ..config import Wrap
from ..pictures.images import to_pm1
from ..pictures.picture import Picture
from ..pictures.target import Target, check_memory, described, plan_passes, work
from .engine import DECODE_WORK, ENCODE_WORK, Engine, Sampling, Start
from .finish import Finish, Inside


def upscale(
    engine: Engine,
    lr: Picture,
    start: Start | None,
    sampling: Sampling,
    *,
    color_fix: str = "wavelet",
    target: Target | None = None,
    lr_consistency: bool = False,
    inside: Inside | None = None,
    wrap: Wrap = "none",
) -> tuple[Tensor, float]:
    """Pictures in the size wanted.

    Args:
        engine: runs the passes.
        lr: B pictures.
        start: makes the start of each pass; None for bicubic.
        sampling: how the chain runs.
        color_fix: a key of `COLOR_FIXES`.
        target: the size wanted; None for x4.
        lr_consistency: whether the result, downscaled, is to be the LR picture.
        inside: where to show the result, if not everywhere.
        wrap: axes in which the pictures go on periodically.

    Returns:
        As `Engine.decode`: [B,3,H,W], or [B,4,H,W] with alpha, and the mean LR-PSNR in dB.

    Raises:
        ValueError: the size can't be reached, the networks can't run these steps, or a result is
        not finite.
        MemoryError: the result does not fit into memory, or not even the smallest tiles do.
    """
    work_of_chain = engine.sample_work(sampling)  # which checks that these steps can be run
    b, h, w = lr.size
    passes = plan_passes(h, w, target or Target())
    room = engine.memory.room_for_results()
    check_memory(passes, room, b, lr.channels, has_mask=inside is not None)
    is_plain = passes == plan_passes(h, w, Target())
    once = b * (ENCODE_WORK + work_of_chain + DECODE_WORK)
    engine.progress.begin(once * sum(work(passes)), "" if is_plain else described(passes))
    rgb, images, psnr = lr.rgb, lr.rgb, 0.0
    for i, (each, weight) in enumerate(zip(passes, work(passes), strict=True), 1):
        engine.progress.weight = weight
        last = i == len(passes)
        finish = Finish(
            color_fix,
            None if is_plain else each.size,
            None if is_plain else lr.rgb,
            lr.alpha if last else None,
            lr_consistency and last,
            inside,
        )
        images, psnr = _once(engine, rgb, start, sampling, finish, wrap)
        rgb = rgb if last else images.float().contiguous()
    return images, psnr


def _once(
    engine: Engine,
    lr: Tensor,
    start: Start | None,
    sampling: Sampling,
    finish: Finish,
    wrap: Wrap,
) -> tuple[Tensor, float]:
    """One pass of x4. [B,3,h,w] in [0,1] -> [B,3,4h,4w], or of the size of `finish`"""
    starts: list[Tensor] = []
    y0 = engine.encode_starts(lr, start, wrap, starts.append if finish.inside else None)
    x0 = engine.sample(y0.float(), to_pm1(lr), sampling, wrap)
    if finish.inside:
        finish = replace(finish, inside=replace(finish.inside, start=torch.cat(starts)))
    codes = engine.networks.denoiser.network.predicts_codes
    return engine.decode(x0.float(), to_pm1(lr), finish, wrap, codes=codes)
