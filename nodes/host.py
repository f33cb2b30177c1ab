"""Wraps ComfyUI's internals: model folders, memory management, progress and upscale models.

Except for `vae`, no other module uses ComfyUI's internals.
"""

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
"""Layer classes that cast their weights to the dtype of the activations in each call. That dtype is
chosen after loading, in `manage`."""

_BAR = 1000
_SECONDS_BETWEEN_TEXTS = 0.2

Preview = tuple[str, Image.Image, int | None]

_RELEASED_UNET_PARAMETERS = 119_000_000

N = TypeVar("N", Autoencoder, Denoiser, NoisePredictor)


# Files


def register_model_folders() -> None:
    """Register `models/lpnsr`, then the folders of the bundled weights.

    Folders in extra_model_paths.yaml come before both.
    """
    default = Path(folder_paths.models_dir) / MODEL_FOLDER
    try:
        default.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        logging.warning(
            "LPNSR: %s can't be created (%s). Put model files into another folder, and add it to "
            "extra_model_paths.yaml under 'lpnsr'.",
            default,
            e,
        )
    folder_paths.add_model_folder_path(MODEL_FOLDER, str(default))
    folder_paths.add_model_folder_path(MODEL_FOLDER, str(BUNDLED))
    folder_paths.add_model_folder_path("upscale_models", str(BUNDLED_UPSCALE_MODELS))
    paths, extensions = folder_paths.folder_names_and_paths[MODEL_FOLDER]
    folder_paths.folder_names_and_paths[MODEL_FOLDER] = (paths, extensions | EXTENSIONS)


def offer_examples() -> None:
    """Copy the example files of the shipped workflows into the input folder, but only once."""
    folder = Path(folder_paths.get_input_directory()).absolute()
    user = Path(folder_paths.get_system_user_directory(MODEL_FOLDER))
    examples.offer(EXAMPLES, folder, user / "examples.txt")


def model_files() -> list[str]:
    """Return the names of the files in the `lpnsr` model folders."""
    return folder_paths.get_filename_list(MODEL_FOLDER)


def model_folders() -> list[str]:
    """Return the `lpnsr` model folders. Downloads go into the first one."""
    return folder_paths.get_folder_paths(MODEL_FOLDER)


def all_folders() -> dict[FolderKind, list[Path]]:
    """Return the folders of each kind (`lpnsr` and `upscale_models`), in ComfyUI's order."""
    kinds: tuple[FolderKind, ...] = (MODEL_FOLDER, "upscale_models")
    return {kind: [Path(p) for p in folder_paths.get_folder_paths(kind)] for kind in kinds}


def users_folders() -> dict[FolderKind, list[Path]]:
    """Return `all_folders` without the folders of bundled weights.

    Downloads go into the first folder of each kind.
    """
    bundled = {BUNDLED.resolve(), BUNDLED_UPSCALE_MODELS.resolve()}
    return {
        kind: [folder for folder in folders if folder.resolve() not in bundled]
        for kind, folders in all_folders().items()
    }


def model_path(name: str) -> Path:
    """Return the full path of a file in the `lpnsr` model folders.

    Raises:
        FileNotFoundError: none of the folders contains the file.
    """
    return Path(folder_paths.get_full_path_or_raise(MODEL_FOLDER, name))


def file_fingerprint(name: str) -> tuple[str, int, int] | None:
    """Return a value that changes when the file is replaced, or None if the file does not exist."""
    path = folder_paths.get_full_path(MODEL_FOLDER, name)
    if path is None:
        return None
    stat = os.stat(path)
    return path, stat.st_mtime_ns, stat.st_size


# Memory


@dataclass(frozen=True)
class Managed(engine_memory.Managed[N]):
    """A network and its ModelPatcher.

    ComfyUI holds only a weak reference to the patcher, so this object keeps it alive.
    """

    network: N = field(repr=False)  # ComfyUI includes the repr of inputs in error reports
    patcher: ModelPatcher


def manage(network: N, precision: str, compiled: bool = False) -> Managed[N]:
    """Choose devices and dtypes as ComfyUI does, cast the network, and create its patcher.

    Args:
        network: network in fp32 on the CPU, built with `OPERATIONS`.
        precision: a key of `PRECISIONS`. "auto" depends on ComfyUI's device and command line.
        compiled: whether to compile the network with torch.compile.

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
    """Return the dtypes of the weights and of the activations."""
    device = mm.get_torch_device()
    weight = _or_fast_bf16(mm.unet_dtype(device, num_parameters), device, args.fp32_unet)
    if weight == torch.bfloat16 and has_fast_bf16(device):
        return weight, weight
    return weight, mm.unet_manual_cast(weight, device) or weight


def _or_fast_bf16(chosen: torch.dtype, device: torch.device, wants_fp32: bool) -> torch.dtype:
    """Replace ComfyUI's default of fp32 by bf16 on CPUs with bf16 instructions.

    Args:
        chosen: dtype that ComfyUI has chosen.
        device: device that the network will run on.
        wants_fp32: whether a command-line option asks for fp32 for this kind of network.
    """
    is_default = chosen == torch.float32 and not (wants_fp32 or args.force_fp32)
    return torch.bfloat16 if is_default and has_fast_bf16(device) else chosen


class Memory(engine_memory.Memory):
    """Makes ComfyUI's model management available to the engine."""

    @property
    def result_device(self) -> torch.device:
        """Device of IMAGE, MASK and LATENT tensors."""
        return mm.intermediate_device()

    @property
    def result_dtype(self) -> torch.dtype:
        """Dtype of IMAGE, MASK and LATENT tensors. A ComfyUI option can make it fp16."""
        dtype: Callable[[], torch.dtype] = getattr(mm, "intermediate_dtype", lambda: torch.float32)
        return dtype()

    def free_for_results(self) -> int:
        """Return the free memory of `result_device` in bytes."""
        device = self.result_device
        if device.type == "cpu":
            return available()
        free: Any = mm.get_free_memory(device)
        return int(free)

    def available(self, networks: Sequence[Any]) -> float:
        """Return how many bytes activations may use if these networks are loaded and all other
        models are evicted.

        On CPU and MPS, evicting frees nothing, since evicted weights stay in the same memory.
        """
        patcher = networks[0].patcher
        device = patcher.load_device
        # Patchers of newer ComfyUI versions have this method. It also counts memory that dynamic
        # VRAM can free.
        free: Any = getattr(patcher, "get_free_memory", mm.get_free_memory)(device)
        if device.type in ("cpu", "mps"):
            return USABLE * free
        weights = sum(network.patcher.model_size() for network in networks)
        return USABLE * (free + _evictable(device) - weights)

    def free(self, networks: Sequence[Any]) -> float:
        """Return how many bytes activations may use if these networks are loaded and no other
        models are evicted."""
        device = networks[0].device
        free: Any = mm.get_free_memory(device)
        if device.type in ("cpu", "mps"):
            return USABLE * free
        patchers = [network.patcher for network in networks]
        return USABLE * (free - sum(p.model_size() - p.loaded_size() for p in patchers))

    def load(self, networks: Sequence[Any], activations: float) -> None:
        """Load the networks, and leave `activations` bytes free for their activations."""
        patchers = [network.patcher for network in networks]
        mm.load_models_gpu(patchers, memory_required=int(activations))

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Return whether the error is a failed allocation.

        ComfyUI's own check is called first, because it also clears a pending CUDA error.
        """
        hosts_test: Callable[[BaseException], bool] = getattr(mm, "is_oom", lambda _: False)
        return hosts_test(error) or super().is_out_of_memory(error)

    def empty_cache(self) -> None:
        """Return cached memory to the device."""
        mm.soft_empty_cache()


def _evictable(device: torch.device) -> int:
    """Return how many bytes would become free on a device if all models were evicted.

    Models in dynamic VRAM are not counted.
    """
    mm.cleanup_models_gc()
    return sum(
        patcher.loaded_size()
        for patcher in mm.loaded_models()
        if patcher is not None  # None if the patcher was freed, but ComfyUI still lists its model
        and patcher.load_device == device
        and not (hasattr(patcher, "is_dynamic") and patcher.is_dynamic())
    )


def to_result(tensor: Tensor) -> Tensor:
    """Convert an IMAGE or MASK to ComfyUI's device and dtype for results."""
    memory = Memory()
    return tensor.to(memory.result_device, memory.result_dtype)


# Progress


class Progress(BaseProgress):
    """Shows a progress bar, text and previews on the running node, and lets the user cancel.

    Args:
        work: total work, in the same unit as in `advance`.
    """

    def __init__(self, work: float = 1.0) -> None:
        context = get_executing_context()
        self._node_id = context.node_id if context else None
        self._bar = comfy.utils.ProgressBar(_BAR)
        self._began = time.monotonic()
        self._said = 0.0
        self._plan = ""
        self._notes: list[str] = []
        self.begin(work)

    def begin(self, work: float, heading: str = "") -> None:
        """Set the total work of a run, and a heading that is shown above each tile plan."""
        self._work, self._heading = work, heading
        if heading:
            logging.info("LPNSR: %s.", heading)

    def plan(self, summary: str, details: str) -> None:
        """Show the tile plan with the status "loading", and log the details of the plan."""
        self._plan = summary
        self.say("loading")
        logging.info("LPNSR: %s.", details)

    def note(self, text: str) -> None:
        """Log a remark, and show it below the tile plan. Repeated remarks are ignored."""
        if text not in self._notes:
            self._notes.append(text)
            logging.info("LPNSR: %s.", text)

    def advance(self, work: float, text: str) -> None:
        """Add finished work, and show `text`, the time left and the tile plan.

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
        """Return a callback for the sampler. If previews are enabled, it shows the clean prediction
        of the first picture in each step."""
        make_preview = latent_previewer(y0[:1], lr[:1])

        def on_step(t: int, x_t: Tensor, x0_pred: Tensor) -> None:
            if (shown := make_preview(x0_pred[:1])) is not None:
                self._bar.update_absolute(self._bar.current, preview=shown)

        return on_step

    def at(self, done: float, total: float) -> None:
        """Set the progress bar to `done` of `total`, for work that is not known in advance.

        Raises:
            InterruptProcessingException: the user pressed Cancel.
        """
        mm.throw_exception_if_processing_interrupted()
        self._bar.update_absolute(round(_BAR * done / total))

    def say(self, text: str) -> None:
        """Show a line of text on the node, and the tile plan below, which narrow nodes cut off."""
        if self._node_id is not None:
            shown = (text, self._heading, self._plan, *self._notes)
            lines = "\n".join(line for line in shown if line)
            # Nodes 2.0 render the text as Markdown, in which two spaces force a line break.
            PromptServer.instance.send_progress_text(lines.replace("\n", "  \n"), self._node_id)

    def finish(self) -> None:
        """Show the elapsed time and the tile plan."""
        self.say(f"done in {duration(time.monotonic() - self._began)}")


def duration(seconds: float) -> str:
    """Format a duration, e.g. "12 s" or "3 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def latent_previewer(y0: Tensor, lr: Tensor) -> Callable[[Tensor], Preview | None]:
    """Create a function that previews latents according to ComfyUI's settings.

    The linear map from latents to colours is fitted to `y0` and `lr`.

    Args:
        y0: latent of the LR image, [1,C,h,w].
        lr: the LR image, [1,3,h,w] in [-1,1].

    Returns:
        A function that maps a latent [1,C,h,w] to a preview, or to None if previews are disabled.
    """
    if args.preview_method == LatentPreviewMethod.NoPreviews:
        return lambda x0: None
    h, w = lr.shape[2:]
    step = max(1, min(h, w) // 256)  # fitting to a sample of the pixels is enough
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
    """Describe ComfyUI's version and options, and its choice of device and precisions."""
    device = mm.get_torch_device()
    memory: list[Any] = [mm.get_total_memory(d) for d in (device, torch.device("cpu"))]
    weight, compute = _unet_dtypes(_RELEASED_UNET_PARAMETERS)
    options = sorted({word.split("=")[0] for word in sys.argv[1:] if word.startswith("--")})
    return [
        f"ComfyUI {comfyui_version}, options {' '.join(options) or 'none'}",
        f"device {mm.get_torch_device_name(device)}, {mm.vram_state.name}, "
        f"{memory[0] / 1e9:.1f} GB; main memory {memory[1] / 1e9:.1f} GB",
        f"precision 'auto' for the released models: autoencoder {_autoencoder_dtype()}; "
        f"U-Nets: weights {weight}, activations {compute}",
    ]


# Upscale models


def run_upscale_model(upscale_model: Any, image: Tensor) -> Tensor:
    """Run a spandrel model with ComfyUI's own node, which handles tiling and memory.

    Args:
        upscale_model: UPSCALE_MODEL.
        image: [B,h,w,3] in [0,1].

    Returns:
        [B,s*h,s*w,3] in [0,1], where s is the scale of the model.
    """
    # ComfyUI 0.29 and newer need this attribute, which only ComfyUI's own loader sets.
    if not hasattr(upscale_model, "patcher"):
        upscale_model.patcher = ModelPatcher(
            upscale_model.model,
            load_device=mm.get_torch_device(),
            offload_device=mm.unet_offload_device(),
        )
    return ImageUpscaleWithModel.execute(upscale_model, image).args[0].float()
