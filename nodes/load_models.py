"""LoadLPNSRModels: files to networks in ComfyUI's care."""

from collections.abc import Callable
from typing import Any

from comfy_api.latest import io, ui

from ..lpnsr_impl import (
    UnsupportedCheckpointError,
    check_family,
    load_autoencoder,
    load_denoiser,
    load_noise_predictor,
)
from ..lpnsr_impl.files.released import STAND_INS
from . import host
from .models import LPNSRModels, LPNSRModelsType
from .schema import schema
from .vae import make_vae

NO_PREDICTOR = "none"


class LoadLPNSRModels(io.ComfyNode):
    """Loads the three networks of one family."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        files = host.model_files()
        return schema(
            node_id="LoadLPNSRModels",
            display_name="Load LPNSR Models",
            description="Loads autoencoder, denoiser and noise predictor of one family from "
            "models/lpnsr. The lpnsr_lite files come with the pack.",
            search_aliases=["model loader", "super resolution model", "upscaler"],
            inputs=[
                io.Combo.Input(
                    "autoencoder",
                    options=files,
                    default="lpnsr_lite_autoencoder.safetensors",
                    tooltip="VQ-f4 autoencoder between images and latents. Released: "
                    "autoencoder_vq_f4.pth",
                ),
                io.Combo.Input(
                    "denoiser",
                    options=files,
                    default="lpnsr_lite_denoiser.safetensors",
                    tooltip="ResShift's denoiser, 4 steps. Released: resshift_realsrx4_s4_v3.pth. "
                    "With _s15 in its name it has 15 steps; SinSR and RSD files (rsd_student) are "
                    "one-step students. With these choose 'none' as noise_predictor.",
                ),
                io.Combo.Input(
                    "noise_predictor",
                    options=[*files, NO_PREDICTOR],
                    default="lpnsr_lite_noise_predictor.safetensors",
                    tooltip="LPNSR's noise predictor; 'none' for plain ResShift. Released: "
                    "noise_predictor_v3.safetensors for PreSet-A, noise_predictor.pth for "
                    "PreSet-B.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(host.PRECISIONS),
                    default="auto",
                    tooltip="Precision of weights and activations. 'auto' is what ComfyUI "
                    "chooses for your device; fp32 is exact, bf16 and fp16 need half the memory.",
                ),
                io.Boolean.Input(
                    "torch_compile",
                    default=False,
                    optional=True,
                    tooltip="For GPUs: have torch.compile make kernels for the networks. The first "
                    "picture of each tile size then takes minutes longer. On a CPU leave it off: "
                    "the networks are faster there without.",
                ),
            ],
            outputs=[
                LPNSRModelsType.Output(
                    "models",
                    display_name="models",
                    tooltip="For all LPNSR nodes. Nothing is on the GPU yet.",
                ),
                io.Vae.Output(
                    "vae",
                    display_name="vae",
                    tooltip="The autoencoder for ComfyUI's own VAE nodes; the LPNSR nodes have no "
                    "need of it.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        autoencoder: str | None,
        denoiser: str | None,
        noise_predictor: str | None,
        precision: str | None,
    ) -> bool | str:
        # ComfyUI does not check the combos of such nodes itself; linked inputs are None here.
        files = host.model_files()
        for widget, name in (
            ("autoencoder", autoencoder),
            ("denoiser", denoiser),
            ("noise_predictor", noise_predictor),
        ):
            if (
                name is None
                or name in files
                or (widget == "noise_predictor" and name == NO_PREDICTOR)
            ):
                continue
            instead = next((s.name for f, s in STAND_INS.items() if f.name == name), None)
            if instead in files:
                return (
                    f"{widget}: there is no file {name!r}, and {instead}, which you have, does in "
                    "its place. Choose it, or get the other with LPNSR Download Models and press R."
                )
            return (
                f"{widget}: there is no file {name!r} in {' or '.join(host.model_folders())}. Put "
                "it into the first of these folders (LPNSR Download Models does so with released "
                f"files) and press R, or choose one of: {', '.join(files)}"
            )
        if precision is not None and precision not in host.PRECISIONS:
            return _unknown_precision(precision)
        return True

    @classmethod
    def fingerprint_inputs(cls, **inputs: str | None) -> list[Any]:
        names = (inputs.get(widget) for widget in ("autoencoder", "denoiser", "noise_predictor"))
        return [host.file_fingerprint(name) for name in names if name]

    @classmethod
    def execute(
        cls,
        autoencoder: str,
        denoiser: str,
        noise_predictor: str,
        precision: str,
        torch_compile: bool = False,
    ) -> io.NodeOutput:
        if precision not in host.PRECISIONS:
            raise ValueError(_unknown_precision(precision))
        a = _load("autoencoder", load_autoencoder, autoencoder)
        d = _load("denoiser", load_denoiser, denoiser)
        p = None
        if noise_predictor != NO_PREDICTOR:
            p = _load("noise_predictor", load_noise_predictor, noise_predictor)
        family = check_family(a, d, p)
        autoencoder_in_memory = host.manage(a, precision, torch_compile)
        models = LPNSRModels(
            autoencoder_in_memory,
            host.manage(d, precision, torch_compile),
            None if p is None else host.manage(p, precision, torch_compile),
            family,
        )
        vae = make_vae(autoencoder_in_memory)
        return io.NodeOutput(models, vae, ui=ui.PreviewText(f"family {family}"))


def _unknown_precision(precision: str) -> str:
    return f"precision: {precision!r} is unknown, choose one of: {', '.join(host.PRECISIONS)}"


def _load(widget: str, load: Callable[..., host.N], name: str) -> host.N:
    try:
        return load(host.model_path(name), operations=host.OPERATIONS)
    except UnsupportedCheckpointError as e:
        raise UnsupportedCheckpointError(
            f"{widget}: {e} Choose another file in Load LPNSR Models."
        ) from e
