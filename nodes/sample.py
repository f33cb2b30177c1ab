"""LPNSRSample: Algorithm 2."""

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..lpnsr_impl.config import PredictorMode
from ..lpnsr_impl.engine.engine import Sampling
from ..lpnsr_impl.pictures.tiling import DEFAULT_OVERLAP
from . import host, stages, widgets
from .images import read_image
from .models import LPNSRModels, LPNSRModelsType
from .schema import schema


class LPNSRSample(io.ComfyNode):
    """The chain of 1 to T steps, with the noise predictor switched per step."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        switch = (
            "Predict the noise of the step from t = {0} to {1} (on: LPNSR) or draw it at "
            "random (off: ResShift). "
        )
        return schema(
            node_id="LPNSRSample",
            display_name="LPNSR Sample",
            description="Super-resolves the latent in 1 to 4 diffusion steps (Algorithm 2 "
            "of the paper); up to 15 with a denoiser of 15 steps, in one with a one-step student.",
            search_aliases=["sampler", "super resolution", "diffusion upscale"],
            inputs=[
                LPNSRModelsType.Input("models", tooltip="From Load LPNSR Models."),
                io.Latent.Input(
                    "samples",
                    tooltip="From ResShift Encode; of VAE Encode or Load Latent with lr_image.",
                ),
                widgets.SEED,
                widgets.STEPS,
                widgets.KAPPA,
                *(
                    io.Boolean.Input(
                        f"predictor_t{t}",
                        default=True,
                        tooltip=switch.format(t, t - 1)
                        + f"Has no effect with fewer than {t} steps, nor with 15-step denoisers "
                        "and one-step students.",
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
                    "latent", display_name="latent", tooltip="The clean latent. For LPNSR Decode."
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
        predictor_on = {4: predictor_t4, 3: predictor_t3, 2: predictor_t2}
        sampling = Sampling(seed, steps, kappa, predictor_on, predictor_mode)
        lr = None if lr_image is None else read_image(lr_image, "lr_image")
        progress = host.Progress()
        engine = stages.engine_for(models, tile_size, overlap, progress)
        progress.begin(len(samples["samples"]) * engine.sample_work(sampling))
        result = stages.sample(engine, models, samples, sampling, lr)
        progress.finish()
        return io.NodeOutput(result)
