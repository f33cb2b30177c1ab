"""LPNSRUpscale: everything in one box."""

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor
from typing_extensions import override

from ..lpnsr_impl.config import PredictorMode, Wrap
from ..lpnsr_impl.masks import DEFAULT_FEATHER
from ..lpnsr_impl.sampler import ALL_ON
from ..lpnsr_impl.tiling import DEFAULT_OVERLAP
from . import host, stages, widgets
from .images import Picture, read_image, read_mask
from .models import LPNSRModels, LPNSRModelsType
from .tiles import Tiling


class LPNSRUpscale(io.ComfyNode):
    """Pre-Upsample, Encode, Sample and Decode with the switches that make the paper's presets."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LPNSRUpscale",
            display_name="LPNSR Upscale",
            category="LPNSR",
            description="Upscales an image x4 in one node. PreSet-A: no upscale_model; "
            "PreSet-B: with one; plain ResShift: use_predictor off.",
            inputs=[
                LPNSRModelsType.Input("models", tooltip="From Load LPNSR Models."),
                io.Image.Input(
                    "image",
                    tooltip="The low-resolution image, of any size. Grey and RGBA work too.",
                ),
                io.UpscaleModel.Input(
                    "upscale_model",
                    optional=True,
                    tooltip="Any model of Load Upscale Model as the start (PreSet-B). Leave "
                    "it open for bicubic (PreSet-A).",
                ),
                widgets.seed(),
                widgets.steps(),
                widgets.kappa(),
                widgets.use_predictor(),
                widgets.predictor_mode(),
                widgets.color_fix(),
                widgets.tile_size(),
                widgets.overlap(),
                widgets.lr_consistency(),
                widgets.mask(),
                widgets.feather(),
                widgets.wrap(),
            ],
            outputs=[
                io.Image.Output(
                    "upscaled_image",
                    display_name="image",
                    tooltip="Exactly four times as high and wide, RGBA if the image had alpha.",
                ),
                widgets.lr_psnr(),
            ],
        )

    @classmethod
    @override
    def validate_inputs(
        cls, predictor_mode: str | None, color_fix: str | None, wrap: str | None = None
    ) -> bool | str:
        return widgets.check_choices(predictor_mode=predictor_mode, color_fix=color_fix, wrap=wrap)

    @classmethod
    @override
    def execute(
        cls,
        models: LPNSRModels,
        image: Tensor,
        seed: int,
        steps: int,
        kappa: float,
        use_predictor: bool,
        predictor_mode: PredictorMode,
        color_fix: str,
        upscale_model: Any | None = None,
        tile_size: int = 0,
        overlap: int = DEFAULT_OVERLAP,
        lr_consistency: bool = False,
        mask: Tensor | None = None,
        feather: int = DEFAULT_FEATHER,
        wrap: Wrap = "none",
    ) -> io.NodeOutput:
        widgets.require_choice("predictor_mode", predictor_mode)
        widgets.require_choice("color_fix", color_fix)
        widgets.require_choice("wrap", wrap)
        predictor_on = ALL_ON if use_predictor else {}
        stages.check_chain(models, steps, predictor_on)
        lr = read_image(image, "image")
        inside = None if mask is None else read_mask(mask, lr)
        starts: list[Tensor] = []

        def keep(start: Picture) -> None:
            if inside is not None:
                starts.append(start.rgb)

        work = stages.ENCODE_WORK + stages.sample_work(steps, predictor_on) + stages.DECODE_WORK
        progress = host.Progress(len(image) * work)
        tiling = Tiling(tile_size, overlap)
        latent = stages.start_latent(models, lr, upscale_model, tiling, progress, wrap, keep)
        latent = stages.sample(
            models,
            latent,
            seed=seed,
            steps=steps,
            kappa=kappa,
            predictor_on=predictor_on,
            predictor_mode=predictor_mode,
            tiling=tiling,
            progress=progress,
        )
        regenerate = None
        if inside is not None:
            regenerate = stages.Regenerate(Picture(torch.cat(starts)), inside, feather)
        result, psnr = stages.decode(
            models,
            latent,
            color_fix,
            tiling,
            progress,
            lr_consistency=lr_consistency,
            regenerate=regenerate,
        )
        progress.finish()
        return io.NodeOutput(result, psnr)
