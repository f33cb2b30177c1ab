"""All four stages, and again until a size is reached."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..lpnsr_impl.config import PredictorMode, Wrap
from ..lpnsr_impl.pictures.target import Target, check_memory, described, plan_passes, work
from . import host, stages
from .images import Picture
from .models import LPNSRModels
from .tiles import Tiling


@dataclass(frozen=True)
class Inside:
    """Where to regenerate.

    mask: [B,1,*,*] in [0,1]; feather: in LR pixels.
    """

    mask: Tensor
    feather: int


@dataclass(frozen=True)
class Upscaler:
    """The whole method with its settings. It is called with pictures.

    upscale_model: the start of each pass; None for bicubic.
    lr_consistency: the result, downscaled, is the LR picture.
    """

    models: LPNSRModels
    upscale_model: Any | None
    seed: int
    steps: int
    kappa: float
    predictor_on: Mapping[int, bool]
    predictor_mode: PredictorMode
    color_fix: str
    tiling: Tiling
    lr_consistency: bool
    wrap: Wrap

    def __call__(
        self, lr: Picture, target: Target, inside: Inside | None = None
    ) -> tuple[Tensor, float]:
        """IMAGE of the size wanted, and its LR-PSNR.

        Raises:
            ValueError: the size can't be reached, or the models can't run these steps.
            MemoryError: the result does not fit into memory.
        """
        stages.check_chain(self.models, self.steps, self.predictor_on)
        b, h, w = lr.size
        passes = plan_passes(h, w, target)
        channels = 3 if lr.alpha is None else 4
        check_memory(passes, host.room_for_results(), b, channels, has_mask=inside is not None)
        sampling = stages.sample_work(self.models, self.steps, self.predictor_on)
        once = b * (stages.ENCODE_WORK + sampling + stages.DECODE_WORK)
        is_plain = passes == plan_passes(h, w, Target())
        heading = "" if is_plain else described(passes)
        if heading:
            logging.info("LPNSR: %s.", heading)
        progress = host.Progress(once * sum(work(passes)), heading)
        image, psnr = torch.empty(0), 0.0
        picture = lr
        for i, (each, weight) in enumerate(zip(passes, work(passes), strict=True), 1):
            if i > 1:
                picture = Picture(image[..., :3].float().movedim(-1, 1).contiguous())
            progress.weight = weight
            image, psnr = self._once(
                picture,
                progress,
                inside,
                None if is_plain else stages.Finish(lr, each.size),
                lr_consistency=self.lr_consistency and i == len(passes),
            )
        progress.finish()
        return image, psnr

    def _once(
        self,
        picture: Picture,
        progress: host.Progress,
        inside: Inside | None,
        finish: stages.Finish | None,
        *,
        lr_consistency: bool,
    ) -> tuple[Tensor, float]:
        """One pass of x4."""
        starts: list[Tensor] = []

        def keep(start: Picture) -> None:
            if inside:
                starts.append(start.rgb)

        latent = stages.start_latent(
            self.models, picture, self.upscale_model, self.tiling, progress, self.wrap, keep
        )
        latent = stages.sample(
            self.models,
            latent,
            seed=self.seed,
            steps=self.steps,
            kappa=self.kappa,
            predictor_on=self.predictor_on,
            predictor_mode=self.predictor_mode,
            tiling=self.tiling,
            progress=progress,
        )
        regenerate = None
        if inside:
            start = Picture(torch.cat(starts))
            regenerate = stages.Regenerate(start, inside.mask, inside.feather)
        return stages.decode(
            self.models,
            latent,
            self.color_fix,
            self.tiling,
            progress,
            lr_consistency=lr_consistency,
            regenerate=regenerate,
            finish=finish,
        )
