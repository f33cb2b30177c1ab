"""LPNSRSample: runs the reverse diffusion (Algorithm 2 of the LPNSR paper)."""

from dataclasses import replace
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..lpnsr_impl.config import PredictorMode
from ..lpnsr_impl.engine.tiled import DEFAULT_OVERLAP
from ..lpnsr_impl.method.sampler import Sampling
from . import host, stages, widgets
from .images import read_image
from .models import LPNSRModels, LPNSRModelsType, unpack_latent
from .schema import schema


class LPNSRSample(io.ComfyNode):
    """Runs the diffusion steps. The noise predictor can be switched off for single steps."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        switch = (
            "On: predict the noise of the step from t = {0} to {1} (LPNSR). Off: draw it at "
            "random (ResShift). "
        )
        return schema(
            node_id="LPNSRSample",
            display_name="LPNSR Sample",
            description="Super-resolves the latent in 1 to 4 diffusion steps (Algorithm 2 of the "
            "paper). A 15-step denoiser takes up to 15 steps, a one-step student takes one.",
            search_aliases=["sampler", "super resolution", "diffusion upscale"],
            inputs=[
                LPNSRModelsType.Input("models", tooltip="From Load LPNSR Models."),
                io.Latent.Input(
                    "samples",
                    tooltip="From ResShift Encode or, if lr_image is connected, from VAE Encode or "
                    "Load Latent.",
                ),
                widgets.SEED,
                widgets.STEPS,
                widgets.KAPPA,
                *(
                    io.Boolean.Input(
                        f"predictor_t{t}",
                        default=True,
                        tooltip=switch.format(t, t - 1)
                        + f"Has no effect with fewer than {t} steps, with 15-step denoisers, or "
                        "with one-step students.",
                    )
                    for t in (4, 3, 2)
                ),
                widgets.PREDICTOR_MODE,
                widgets.TILE_SIZE,
                widgets.OVERLAP,
                widgets.LR_IMAGE,
            ],
            outputs=[
                io.Latent.Output(
                    "latent", display_name="latent", tooltip="The clean latent, for LPNSR Decode."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, predictor_mode: str | None) -> bool | str:
        return widgets.check_choices(predictor_mode=predictor_mode)

    @classmethod
    def execute(
        cls,
        models: LPNSRModels,
        samples: dict[str, Any],
        seed: int,
        steps: int,
        kappa: float,
        predictor_t4: bool,
        predictor_t3: bool,
        predictor_t2: bool,
        predictor_mode: PredictorMode,
        tile_size: int = 0,
        overlap: int = DEFAULT_OVERLAP,
        lr_image: Tensor | None = None,
    ) -> io.NodeOutput:
        widgets.require_choices(predictor_mode=predictor_mode)
        if "noise_mask" in samples:
            raise ValueError(
                "This LATENT has a noise mask, which LPNSR Sample does not support. Remove it, and "
                "connect the mask to LPNSR Decode."
            )
        predictor_on = {4: predictor_t4, 3: predictor_t3, 2: predictor_t2}
        sampling = Sampling(seed, steps, kappa, predictor_on, predictor_mode)
        progress = host.Progress()
        lr = None if lr_image is None else read_image(lr_image, "lr_image", note=progress.note)
        engine = stages.make_engine(models, tile_size, overlap, progress)
        progress.begin(len(samples["samples"]) * engine.sample_work(sampling))
        y0 = unpack_latent(samples, models, lr)
        x0 = engine.sample(y0.samples, y0.lr, sampling)
        progress.finish()
        quantize = models.family.quantize
        return io.NodeOutput(replace(y0, samples=x0, quantize=quantize).latent())
