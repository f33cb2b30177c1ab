"""The one door to ComfyUI: model folder, memory management, progress, and its upscale models."""

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import comfy.model_management as mm
import comfy.ops
import comfy.utils
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_upscale_model import ImageUpscaleWithModel
from torch import Tensor

from ..lpnsr_impl.models import Autoencoder, Denoiser, NoisePredictor, set_precision
from ..lpnsr_impl.weights_folder import BUNDLED, BUNDLED_UPSCALE_MODELS

MODEL_FOLDER = "lpnsr"
PACK = Path(__file__).parent.parent
EXAMPLE_PICTURE = PACK / "workflows" / "lpnsr_example.png"
PRECISIONS = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

OPERATIONS = comfy.ops.manual_cast
"""Layers that cast their weights to the activations, since dtypes are chosen after loading."""

_USABLE = 0.7
"""Share of the free memory that a run plans with."""

_EXTENSIONS = {".safetensors", ".pth", ".pt", ".ckpt"}

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
    folder_paths.folder_names_and_paths[MODEL_FOLDER] = (paths, extensions | _EXTENSIONS)


def offer_example_picture() -> None:
    """Put the picture of the shipped workflows into the input folder, so that they run at once."""
    target = Path(folder_paths.get_input_directory()) / EXAMPLE_PICTURE.name
    if target.exists():
        return
    try:
        shutil.copyfile(EXAMPLE_PICTURE, target)
    except OSError as e:
        logging.warning("LPNSR: %s can't be made (%s); choose a picture in Load Image.", target, e)


def model_files() -> list[str]:
    """Names of the files in the `lpnsr` model folders."""
    return folder_paths.get_filename_list(MODEL_FOLDER)


def model_folders() -> list[str]:
    """The `lpnsr` model folders, the one for downloads first."""
    return folder_paths.get_folder_paths(MODEL_FOLDER)


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
class Managed(Generic[N]):
    """A network in ComfyUI's care. Holds the patcher, since the host keeps weak references only."""

    network: N
    patcher: ModelPatcher

    @property
    def device(self) -> torch.device:
        """Where activations belong while the network is loaded."""
        return self.patcher.load_device

    @property
    def dtype_bytes(self) -> int:
        """Bytes of one activation."""
        return mm.dtype_size(self.network.compute_dtype)


def manage(network: N, precision: str) -> Managed[N]:
    """Choose devices and dtypes as the host does, cast the network, and hand it to the host.

    Args:
        network: in fp32 on the CPU, built with `OPERATIONS`.
        precision: a key of `PRECISIONS`; "auto" follows the host's device and command line.
    """
    chosen = PRECISIONS[precision]
    if isinstance(network, Autoencoder):
        device, offload = mm.vae_device(), mm.vae_offload_device()
        weight = chosen or mm.vae_dtype(device, [torch.bfloat16, torch.float32])
        compute = weight
    else:
        device, offload = mm.get_torch_device(), mm.unet_offload_device()
        num_parameters = sum(p.numel() for p in network.parameters())
        weight = chosen or mm.unet_dtype(device, num_parameters)
        compute = chosen or mm.unet_manual_cast(weight, device) or weight
    set_precision(network, weight, compute)
    return Managed(network, ModelPatcher(network, load_device=device, offload_device=offload))


def load(*networks: Managed[Any], activations: float) -> None:
    """Make networks resident together, with room for `activations` bytes beside them."""
    mm.load_models_gpu([network.patcher for network in networks], memory_required=int(activations))


def memory_budget(networks: Sequence[Managed[Any]]) -> float:
    """Bytes for activations beside these networks, if the host unloads all others."""
    device = networks[0].device
    evictable = sum(
        patcher.loaded_size() for patcher in mm.loaded_models() if patcher.load_device == device
    )
    weights = sum(network.patcher.model_size() for network in networks)
    free: Any = mm.get_free_memory(device)
    return _USABLE * (free + evictable - weights)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on any device."""
    text = str(error).lower()
    return isinstance(error, (mm.OOM_EXCEPTION, MemoryError)) or (
        isinstance(error, RuntimeError)
        and ("out of memory" in text or "can't allocate memory" in text)
    )


def free_memory() -> None:
    """Give cached memory back to the device."""
    mm.soft_empty_cache()


def result_device() -> torch.device:
    """Where IMAGE and LATENT tensors go."""
    return mm.intermediate_device()


# Progress


class Progress:
    """Progress bar on the running node. Every step is also a chance to cancel."""

    def __init__(self, total: int) -> None:
        self._bar = comfy.utils.ProgressBar(total)

    def step(self) -> None:
        """Count one step.

        Raises:
            InterruptProcessingException: the user pressed Cancel.
        """
        self.check()
        self._bar.update(1)

    def check(self) -> None:
        """Stop here if the user wants to.

        Raises:
            InterruptProcessingException: the user pressed Cancel.
        """
        mm.throw_exception_if_processing_interrupted()


# Upscale models


def run_upscale_model(upscale_model: Any, image: Tensor) -> Tensor:
    """Run a spandrel model as the host's own node does, tiled and with its care for memory.

    Args:
        upscale_model: UPSCALE_MODEL.
        image: [B,h,w,3] in [0,1].

    Returns:
        [B,s*h,s*w,3] in [0,1], s being the model's scale.
    """
    return ImageUpscaleWithModel.execute(upscale_model, image).args[0].float()
