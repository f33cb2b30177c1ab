"""The one door to ComfyUI: model folders, memory management, progress, upscale models."""

import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import comfy.model_management as mm
import comfy.ops
import comfy.utils
import folder_paths
import latent_preview
import torch
from comfy.cli_args import LatentPreviewMethod, args
from comfy.latent_formats import LatentFormat
from comfy.model_patcher import ModelPatcher
from comfy_execution.utils import get_executing_context
from comfy_extras.nodes_upscale_model import ImageUpscaleWithModel
from comfyui_version import __version__ as comfyui_version
from PIL import Image
from server import PromptServer
from torch import Tensor

from ..lpnsr_impl.accelerate import accelerate, has_fast_bf16, set_precision
from ..lpnsr_impl.engine import memory as engine_memory
from ..lpnsr_impl.engine.memory import USABLE
from ..lpnsr_impl.engine.progress import Progress as BaseProgress
from ..lpnsr_impl.files import examples
from ..lpnsr_impl.files.folders import BUNDLED, BUNDLED_UPSCALE_MODELS, EXTENSIONS
from ..lpnsr_impl.files.released import FolderKind
from ..lpnsr_impl.main_memory import available
from ..lpnsr_impl.method.sampler import StepCallback
from ..lpnsr_impl.models import Autoencoder, Denoiser, NoisePredictor
from ..lpnsr_impl.pictures.images import fit_rgb_factors

MODEL_FOLDER = "lpnsr"
PACK = Path(__file__).parent.parent
EXAMPLES = [
    PACK / "workflows" / name
    for name in ("lpnsr_example.png", "lpnsr_example.mp4", "lpnsr_texture.png")
]
PRECISIONS = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

OPERATIONS = comfy.ops.manual_cast
"""Layers that cast their weights to the activations, since dtypes are chosen after loading."""

_BAR = 1000
_SECONDS_BETWEEN_TEXTS = 0.2

Preview = tuple[str, Image.Image, int | None]

_RELEASED_UNET_PARAMETERS = 119_000_000

N = TypeVar("N", Autoencoder, Denoiser, NoisePredictor)


# Files


def register_model_folders() -> None:
    """List `models/lpnsr` and the bundled weights, behind folders of extra_model_paths.yaml."""
    default = Path(folder_paths.models_dir) / MODEL_FOLDER
    try:
        default.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        logging.warning(
            "LPNSR: %s can't be made (%s); put model files into another folder for 'lpnsr'.",
            default,
            e,
        )
    folder_paths.add_model_folder_path(MODEL_FOLDER, str(default))
    folder_paths.add_model_folder_path(MODEL_FOLDER, str(BUNDLED))
    folder_paths.add_model_folder_path("upscale_models", str(BUNDLED_UPSCALE_MODELS))
    paths, extensions = folder_paths.folder_names_and_paths[MODEL_FOLDER]
    folder_paths.folder_names_and_paths[MODEL_FOLDER] = (paths, extensions | EXTENSIONS)


def offer_examples() -> None:
    """Put what the shipped workflows load into the input folder, once, so that they run at once."""
    folder = Path(folder_paths.get_input_directory()).absolute()
    user = Path(folder_paths.get_system_user_directory(MODEL_FOLDER))
    examples.offer(EXAMPLES, folder, user / "examples.txt")


def model_files() -> list[str]:
    """Names of the files in the `lpnsr` model folders."""
    return folder_paths.get_filename_list(MODEL_FOLDER)


def model_folders() -> list[str]:
    """The `lpnsr` model folders, the one for downloads first."""
    return folder_paths.get_folder_paths(MODEL_FOLDER)


def all_folders() -> dict[FolderKind, list[Path]]:
    """Folders of networks and of upscale models, as ComfyUI lists them."""
    kinds: tuple[FolderKind, ...] = (MODEL_FOLDER, "upscale_models")
    return {kind: [Path(p) for p in folder_paths.get_folder_paths(kind)] for kind in kinds}


def users_folders() -> dict[FolderKind, list[Path]]:
    """`all_folders` without the pack's own: the first of each kind is for downloads."""
    bundled = {BUNDLED.resolve(), BUNDLED_UPSCALE_MODELS.resolve()}
    return {
        kind: [folder for folder in folders if folder.resolve() not in bundled]
        for kind, folders in all_folders().items()
    }


def model_path(name: str) -> Path:
    """Full path of a file in the `lpnsr` model folders.

    Raises:
        FileNotFoundError: no folder has such a file.
    """
    return Path(folder_paths.get_full_path_or_raise(MODEL_FOLDER, name))


def file_fingerprint(name: str) -> tuple[str, int, int] | None:
    """Changes when the file is replaced; None if it is not there."""
    path = folder_paths.get_full_path(MODEL_FOLDER, name)
    if path is None:
        return None
    stat = os.stat(path)
    return path, stat.st_mtime_ns, stat.st_size


# Memory


@dataclass(frozen=True)
class Managed(engine_memory.Managed[N]):
    """A network in ComfyUI's care. Holds the patcher, since the host keeps weak references only."""

    network: N = field(repr=False)  # the host writes each input into the report of an error
    patcher: ModelPatcher


def manage(network: N, precision: str, compiled: bool = False) -> Managed[N]:
    """Choose devices and dtypes as the host does, cast the network, and hand it to the host.

    Args:
        network: in fp32 on the CPU, built with `OPERATIONS`.
        precision: a key of `PRECISIONS`; "auto" follows the host's device and command line.
        compiled: whether torch.compile makes its kernels.

    Raises:
        RuntimeError: torch.compile does not work on the device.
    """
    chosen = PRECISIONS[precision]
    if isinstance(network, Autoencoder):
        device, offload = mm.vae_device(), mm.vae_offload_device()
        weight = compute = chosen or _autoencoder_dtype()
    else:
        device, offload = mm.get_torch_device(), mm.unet_offload_device()
        num_parameters = sum(p.numel() for p in network.parameters())
        weight, compute = (chosen, chosen) if chosen else _unet_dtypes(num_parameters)
    set_precision(network, weight, compute)
    accelerate(network, device, compiled)
    patcher = ModelPatcher(network, load_device=device, offload_device=offload)
    return Managed(network, device, patcher)


def _autoencoder_dtype() -> torch.dtype:
    device = mm.vae_device()
    chosen = mm.vae_dtype(device, [torch.bfloat16, torch.float32])
    return _or_fast_bf16(chosen, device, args.fp32_vae)


def _unet_dtypes(num_parameters: int) -> tuple[torch.dtype, torch.dtype]:
    """Of the weights, and of the activations."""
    device = mm.get_torch_device()
    weight = _or_fast_bf16(mm.unet_dtype(device, num_parameters), device, args.fp32_unet)
    if weight == torch.bfloat16 and has_fast_bf16(device):
        return weight, weight
    return weight, mm.unet_manual_cast(weight, device) or weight


def _or_fast_bf16(chosen: torch.dtype, device: torch.device, wants_fp32: bool) -> torch.dtype:
    """The host's choice, or bf16 on CPUs that have it: the host takes fp32 on all of them."""
    is_default = chosen == torch.float32 and not (wants_fp32 or args.force_fp32)
    return torch.bfloat16 if is_default and has_fast_bf16(device) else chosen


class Memory(engine_memory.Memory):
    """ComfyUI's model management, for the engine."""

    @property
    def result_device(self) -> torch.device:
        """Where IMAGE, MASK and LATENT tensors go."""
        return mm.intermediate_device()

    @property
    def result_dtype(self) -> torch.dtype:
        """Of IMAGE, MASK and LATENT tensors; fp16 where the host was started so."""
        dtype: Callable[[], torch.dtype] = getattr(mm, "intermediate_dtype", lambda: torch.float32)
        return dtype()

    def free_for_results(self) -> int:
        """Free bytes where IMAGE and LATENT tensors go."""
        device = self.result_device
        if device.type == "cpu":
            return available()
        free: Any = mm.get_free_memory(device)
        return int(free)

    def available(self, networks: Sequence[Any]) -> float:
        """Bytes for activations beside these networks, with all other models evicted.

        Main memory, which MPS shares, holds the weights of all models, evicted or not.
        """
        patcher = networks[0].patcher
        device = patcher.load_device
        # Hosts with dynamic VRAM count what that would give back.
        free: Any = getattr(patcher, "get_free_memory", mm.get_free_memory)(device)
        if device.type in ("cpu", "mps"):
            return USABLE * free
        weights = sum(network.patcher.model_size() for network in networks)
        return USABLE * (free + _evictable(device) - weights)

    def free(self, networks: Sequence[Any]) -> float:
        """Bytes for activations beside these networks, without evicting other models."""
        device = networks[0].device
        free: Any = mm.get_free_memory(device)
        if device.type in ("cpu", "mps"):
            return USABLE * free
        patchers = [network.patcher for network in networks]
        return USABLE * (free - sum(p.model_size() - p.loaded_size() for p in patchers))

    def load(self, networks: Sequence[Any], activations: float) -> None:
        """Load the networks, with this many bytes free for activations."""
        patchers = [network.patcher for network in networks]
        mm.load_models_gpu(patchers, memory_required=int(activations))

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether an allocation failed. The host's own test also clears a pending error of CUDA."""
        hosts_test: Callable[[BaseException], bool] = getattr(mm, "is_oom", lambda _: False)
        return hosts_test(error) or super().is_out_of_memory(error)

    def empty_cache(self) -> None:
        """Give cached memory back to the device."""
        mm.soft_empty_cache()


def _evictable(device: torch.device) -> int:
    """Bytes of weights on a device that unloading would free, beside those of dynamic VRAM."""
    mm.cleanup_models_gc()
    return sum(
        patcher.loaded_size()
        for patcher in mm.loaded_models()
        if patcher is not None  # whose owner has gone, while the host still lists its model
        and patcher.load_device == device
        and not (hasattr(patcher, "is_dynamic") and patcher.is_dynamic())
    )


def to_result(tensor: Tensor) -> Tensor:
    """Move an IMAGE or MASK to the host's device and dtype for results."""
    memory = Memory()
    return tensor.to(memory.result_device, memory.result_dtype)


# Progress


class Progress(BaseProgress):
    """Bar, text and preview on the running node. Every step is also a chance to cancel."""

    def __init__(self, work: float = 1.0) -> None:
        """`work` is all there is to do, in any unit, for `advance`."""
        context = get_executing_context()
        self._node_id = context.node_id if context else None
        self._bar = comfy.utils.ProgressBar(_BAR)
        self._began = time.monotonic()
        self._said = 0.0
        self._plan = ""
        self._notes: list[str] = []
        self.begin(work)

    def begin(self, work: float, heading: str = "") -> None:
        """A run of so much work begins; `heading` is a line above the plan, which plans share."""
        self._work, self._heading = work, heading
        if heading:
            logging.info("LPNSR: %s.", heading)

    def plan(self, summary: str, details: str) -> None:
        """Show the plan for which the networks are being loaded, and log its details."""
        self._plan = summary
        self.say("loading")
        logging.info("LPNSR: %s.", details)

    def note(self, text: str) -> None:
        """Log a remark, and show it below the plan."""
        self._notes.append(text)
        logging.info("LPNSR: %s.", text)

    def advance(self, work: float, text: str) -> None:
        """Count work done; show `text`, the time left and the plan.

        Raises:
            InterruptProcessingException: the user pressed Cancel.
        """
        mm.throw_exception_if_processing_interrupted()
        super().advance(work, text)
        share = min(self.done / self._work, 1.0)
        self._bar.update_absolute(round(_BAR * share))
        now = time.monotonic()
        if now - self._said >= _SECONDS_BETWEEN_TEXTS:
            self._said = now
            left = (now - self._began) * (1 / max(share, 1e-9) - 1)
            self.say(f"{text}, {duration(left)} left")

    def preview(self, y0: Tensor, lr: Tensor) -> StepCallback:
        """Shows the first picture's prediction after each step, where previews are switched on."""
        make_preview = latent_previewer(y0[:1], lr[:1])

        def on_step(t: int, x_t: Tensor, x0_pred: Tensor) -> None:
            if (shown := make_preview(x0_pred[:1])) is not None:
                self._bar.update_absolute(self._bar.current, preview=shown)

        return on_step

    def at(self, done: float, total: float) -> None:
        """Show `done` of `total`, where neither is known from the start.

        Raises:
            InterruptProcessingException: the user pressed Cancel.
        """
        mm.throw_exception_if_processing_interrupted()
        self._bar.update_absolute(round(_BAR * done / total))

    def say(self, text: str) -> None:
        """Show a line of text on the node, above the plan, which narrow nodes cut off."""
        if self._node_id is not None:
            shown = (text, self._heading, self._plan, *self._notes)
            lines = "\n".join(line for line in shown if line)
            # two spaces before the end of a line: Nodes 2.0 take it for Markdown
            PromptServer.instance.send_progress_text(lines.replace("\n", "  \n"), self._node_id)

    def finish(self) -> None:
        """Show the time it took, and the plan."""
        self.say(f"done in {duration(time.monotonic() - self._began)}")


def duration(seconds: float) -> str:
    """In words, e.g. "12 s" or "3 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def latent_previewer(y0: Tensor, lr: Tensor) -> Callable[[Tensor], Preview | None]:
    """Previews of latents, in the colours that `y0` has in `lr`, by the host's preview settings.

    Args:
        y0: [1,C,h,w].
        lr: [1,3,h,w] in [-1,1].

    Returns:
        A function of a latent [1,C,h,w]. It gives None where previews are switched off.
    """
    if args.preview_method == LatentPreviewMethod.NoPreviews:
        return lambda x0: None
    h, w = lr.shape[2:]
    step = max(1, min(h, w) // 256)  # a sample of the pixels is enough
    factors, bias = fit_rgb_factors(y0[:, :, ::step, ::step], lr[:, :, ::step, ::step])
    latent_format: Any = LatentFormat()
    latent_format.latent_channels = y0.shape[1]
    latent_format.latent_rgb_factors = factors.tolist()
    latent_format.latent_rgb_factors_bias = bias.tolist()
    previewer: Any = latent_preview.get_previewer(y0.device, latent_format)
    if previewer is None:
        return lambda x0: None
    return lambda x0: previewer.decode_latent_to_preview_image("JPEG", x0)


# Report


def environment() -> list[str]:
    """ComfyUI's version, and what it chooses for this machine."""
    device = mm.get_torch_device()
    memory: list[Any] = [mm.get_total_memory(d) for d in (device, torch.device("cpu"))]
    weight, compute = _unet_dtypes(_RELEASED_UNET_PARAMETERS)
    options = sorted({word.split("=")[0] for word in sys.argv[1:] if word.startswith("--")})
    return [
        f"ComfyUI {comfyui_version}, options {' '.join(options) or 'none'}",
        f"device {mm.get_torch_device_name(device)}, {mm.vram_state.name}, "
        f"{memory[0] / 1e9:.1f} GB; main memory {memory[1] / 1e9:.1f} GB",
        f"precision auto of the released models: autoencoder {_autoencoder_dtype()}, U-Nets "
        f"{weight} computing in {compute}",
    ]


# Upscale models


def run_upscale_model(upscale_model: Any, image: Tensor) -> Tensor:
    """Run a spandrel model as the host's own node does, tiled and with its care for memory.

    Args:
        upscale_model: UPSCALE_MODEL.
        image: [B,h,w,3] in [0,1].

    Returns:
        [B,s*h,s*w,3] in [0,1], s being the model's scale.
    """
    if not hasattr(upscale_model, "patcher"):  # hosts from 0.29 on expect what their loader adds
        upscale_model.patcher = ModelPatcher(
            upscale_model.model,
            load_device=mm.get_torch_device(),
            offload_device=mm.unet_offload_device(),
        )
    return ImageUpscaleWithModel.execute(upscale_model, image).args[0].float()
