"""LoadLPNSRModels: loads three model files, and registers the networks with ComfyUI."""

from collections.abc import Mapping, Sequence
from typing import Any

from comfy_api.latest import io, ui

from ..lpnsr_impl import UnsupportedCheckpointError
from ..lpnsr_impl.files import checkpoints
from ..lpnsr_impl.files.released import (
    AUTOENCODER,
    DENOISER,
    PREDICTOR,
    PREDICTOR_V3,
    RELEASED,
    STAND_INS,
)
from . import host
from .models import LPNSRModels, LPNSRModelsType
from .schema import schema
from .vae import make_vae

NO_PREDICTOR = "none"

_NETWORKS = ("autoencoder", "denoiser", "noise_predictor")
_BUNDLED = tuple(f"lpnsr_lite_{network}.safetensors" for network in _NETWORKS)


class LoadLPNSRModels(io.ComfyNode):
    """Loads the three networks of a model family."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        files = host.model_files()
        autoencoder, denoiser, noise_predictor = _default_files(files)
        return schema(
            node_id="LoadLPNSRModels",
            display_name="Load LPNSR Models",
            description="Loads the autoencoder, denoiser and noise predictor of one family from "
            "models/lpnsr. The lpnsr_lite files come with the pack.",
            search_aliases=["model loader", "super resolution model", "upscaler"],
            inputs=[
                io.Combo.Input(
                    "autoencoder",
                    options=files,
                    default=autoencoder,
                    tooltip="VQ-f4 autoencoder, which converts images to latents and back. "
                    "Released file: autoencoder_vq_f4.pth",
                ),
                io.Combo.Input(
                    "denoiser",
                    options=files,
                    default=denoiser,
                    tooltip="ResShift's denoiser with 4 steps. Released file: "
                    "resshift_realsrx4_s4_v3.pth. Files with _s15 in their names have 15 steps; "
                    "SinSR and RSD files (rsd_student) are one-step students. For 15 steps and "
                    "for one-step students, choose 'none' as noise_predictor.",
                ),
                io.Combo.Input(
                    "noise_predictor",
                    options=[*files, NO_PREDICTOR],
                    default=noise_predictor,
                    tooltip="LPNSR's noise predictor; 'none' for plain ResShift. Released files: "
                    "noise_predictor_v3.safetensors for PreSet-A, noise_predictor.pth for "
                    "PreSet-B.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(host.PRECISIONS),
                    default="auto",
                    tooltip="Precision of weights and activations. 'auto' is what ComfyUI "
                    "chooses for your device, or bf16 on CPUs with bf16 instructions. bf16 and "
                    "fp16 need half the memory of fp32.",
                ),
                io.Boolean.Input(
                    "torch_compile",
                    default=False,
                    optional=True,
                    tooltip="Compile the networks with torch.compile, for GPUs. The first picture "
                    "of each tile size then takes minutes longer. On a CPU leave it off: the "
                    "networks are faster without it.",
                ),
            ],
            outputs=[
                LPNSRModelsType.Output(
                    "models",
                    display_name="models",
                    tooltip="The three networks, for all LPNSR nodes. They are moved to the GPU "
                    "when a node uses them.",
                ),
                io.Vae.Output(
                    "vae",
                    display_name="vae",
                    tooltip="The autoencoder, for ComfyUI's own VAE nodes. LPNSR nodes do not need "
                    "this output.",
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
        # Raise exceptions, because ComfyUI would show a returned message once for each argument.
        chosen = {
            "autoencoder": autoencoder,
            "denoiser": denoiser,
            "noise_predictor": None if noise_predictor == NO_PREDICTOR else noise_predictor,
        }
        _require_files({widget: name for widget, name in chosen.items() if name is not None})
        if precision is not None:  # None if the input is linked
            _require_precision(precision)
        return True

    @classmethod
    def fingerprint_inputs(cls, **inputs: str | None) -> list[Any]:
        names = (inputs.get(widget) for widget in _NETWORKS)
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
        _require_precision(precision)
        a = _load(checkpoints.AUTOENCODER, autoencoder)
        d = _load(checkpoints.DENOISER, denoiser)
        p = None
        if noise_predictor != NO_PREDICTOR:
            p = _load(checkpoints.NOISE_PREDICTOR, noise_predictor)
        family = checkpoints.check_family(a, d, p)
        managed_autoencoder = host.manage(a.network, precision, torch_compile)
        models = LPNSRModels(
            family,
            managed_autoencoder,
            host.manage(d.network, precision, torch_compile),
            None if p is None else host.manage(p.network, precision, torch_compile),
        )
        vae = make_vae(managed_autoencoder)
        return io.NodeOutput(models, vae, ui=ui.PreviewText(f"family {family.name}"))


def _default_files(files: Sequence[str]) -> tuple[str, ...]:
    """Return the released files if all three are installed, else the bundled ones."""
    for predictor in (PREDICTOR_V3, PREDICTOR):
        released = tuple(file.name for file in (AUTOENCODER, DENOISER, predictor))
        if set(released) <= set(files):
            return released
    return _BUNDLED


def _require_files(chosen: Mapping[str, str]) -> None:
    """Check that the chosen files exist.

    Args:
        chosen: file names by widget.

    Raises:
        ValueError: a file is missing. The message names all missing files and says how to get them.
    """
    files = host.model_files()
    missing = {widget: name for widget, name in chosen.items() if name not in files}
    if not missing:
        return
    problems = "; ".join(f"{widget}: there is no file {name!r}" for widget, name in missing.items())
    folders = host.model_folders()
    advice = [
        f"{instead.name}, which you have, can replace {file.name}."
        for file, instead in STAND_INS.items()
        if file.name in missing.values() and instead.name in files
    ]
    if released := [file.name for file in RELEASED if file.name in missing.values()]:
        advice.append(f"The node LPNSR Download Models downloads {', '.join(released)}.")
    advice.append(f"Put missing files into {folders[0]} and press R, or choose other files.")
    raise ValueError(f"{problems} in {' or '.join(folders)}. {' '.join(advice)}")


def _require_precision(precision: str) -> None:
    if precision not in host.PRECISIONS:
        choices = ", ".join(host.PRECISIONS)
        raise ValueError(f"precision: {precision!r} is unknown, choose one of: {choices}")


def _load(
    part: checkpoints.Part[checkpoints.Network], name: str
) -> checkpoints.ModelDescriptor[checkpoints.Network]:
    try:
        return checkpoints.load_model(host.model_path(name), part, host.OPERATIONS)
    except UnsupportedCheckpointError as e:
        raise UnsupportedCheckpointError(
            f"{part.name}: {e} Choose another file in Load LPNSR Models."
        ) from e
