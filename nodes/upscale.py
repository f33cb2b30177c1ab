"""LPNSRUpscale: everything in one box."""

from typing import Any

from comfy_api.latest import io
from torch import Tensor
from typing_extensions import override

from ..lpnsr_impl.config import PredictorMode
from ..lpnsr_impl.sampler import ALL_ON
from ..lpnsr_impl.tiling import DEFAULT_OVERLAP
from . import host, stages, widgets
from .images import read_image
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
    def validate_inputs(cls, predictor_mode: str | None, color_fix: str | None) -> bool | str:
        mode = widgets.check_choice("predictor_mode", predictor_mode)
        return mode if mode is not True else widgets.check_choice("color_fix", color_fix)

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
    ) -> io.NodeOutput:
        widgets.require_choice("predictor_mode", predictor_mode)
        widgets.require_choice("color_fix", color_fix)
        predictor_on = ALL_ON if use_predictor else {}
        stages.check_chain(models, steps, predictor_on)
        lr = read_image(image, "image")
        work = stages.ENCODE_WORK + stages.sample_work(steps, predictor_on) + stages.DECODE_WORK
        progress = host.Progress(len(image) * work)
        tiling = Tiling(tile_size, overlap)
        latent = stages.start_latent(models, lr, upscale_model, tiling, progress)
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
        result, psnr = stages.decode(
            models, latent, color_fix, tiling, progress, lr_consistency=lr_consistency
        )
        progress.finish()
        return io.NodeOutput(result, psnr)
