"""What `host` and `vae` take from ComfyUI, listed once: so that under a version where a call is
gone or takes other arguments, the log and LPNSR Doctor name it.

Imports nothing of ComfyUI by itself, since that may be what fails.
"""

import importlib
import inspect
from operator import attrgetter
from typing import Any

USED = (
    "comfy.cli_args:LatentPreviewMethod.NoPreviews",
    "comfy.cli_args:args.force_fp32",
    "comfy.cli_args:args.fp32_unet",
    "comfy.cli_args:args.fp32_vae",
    "comfy.cli_args:args.preview_method",
    "comfy.latent_formats:LatentFormat()",
    "comfy.model_management:cleanup_models_gc()",
    "comfy.model_management:get_free_memory(_)",
    "comfy.model_management:get_torch_device()",
    "comfy.model_management:get_torch_device_name(_)",
    "comfy.model_management:get_total_memory(_)",
    "comfy.model_management:intermediate_device()",
    "comfy.model_management:load_models_gpu(_, memory_required)",
    "comfy.model_management:loaded_models()",
    "comfy.model_management:soft_empty_cache()",
    "comfy.model_management:throw_exception_if_processing_interrupted()",
    "comfy.model_management:unet_dtype(_, _)",
    "comfy.model_management:unet_manual_cast(_, _)",
    "comfy.model_management:unet_offload_device()",
    "comfy.model_management:vae_device()",
    "comfy.model_management:vae_dtype(_, _)",
    "comfy.model_management:vae_offload_device()",
    "comfy.model_management:vram_state.name",
    "comfy.model_patcher:ModelPatcher(_, load_device, offload_device)",
    "comfy.model_patcher:ModelPatcher.loaded_size(self)",
    "comfy.model_patcher:ModelPatcher.model_size(self)",
    "comfy.ops:manual_cast.Conv2d",
    "comfy.ops:manual_cast.Embedding",
    "comfy.ops:manual_cast.GroupNorm",
    "comfy.ops:manual_cast.Linear",
    "comfy.sd:VAE(sd)",
    "comfy.utils:ProgressBar(_)",
    "comfy.utils:ProgressBar.update_absolute(self, _, preview)",
    "comfy_execution.utils:get_executing_context()",
    "comfy_extras.nodes_upscale_model:ImageUpscaleWithModel.execute(_, _)",
    "comfyui_version:__version__",
    "folder_paths:add_model_folder_path(_, _)",
    "folder_paths:folder_names_and_paths",
    "folder_paths:get_filename_list(_)",
    "folder_paths:get_folder_paths(_)",
    "folder_paths:get_full_path(_, _)",
    "folder_paths:get_full_path_or_raise(_, _)",
    "folder_paths:get_input_directory()",
    "folder_paths:get_system_user_directory(_)",
    "folder_paths:models_dir",
    "latent_preview:get_previewer(_, _)",
    "server:PromptServer.instance",
    "server:PromptServer.send_progress_text(self, _, _)",
)
"""module:name, and in brackets how it is called: `_` for each positional argument, and keywords."""

WHERE_THERE = (
    "comfy.model_management:intermediate_dtype()",
    "comfy.model_management:is_oom(_)",
    "comfy.model_patcher:ModelPatcher.get_free_memory(self, _)",
    "comfy.model_patcher:ModelPatcher.is_dynamic(self)",
)
"""The same, of which older versions have none."""


def problems() -> list[str]:
    """One line for each entry that the running ComfyUI lacks, or that takes other arguments."""
    found = [(entry, _problem(entry)) for entry in USED]
    found += [(entry, _problem(entry)) for entry in WHERE_THERE if _is_there(entry)]
    return [
        f"ComfyUI's {entry} {problem}. LPNSR needs it: look for a newer version of one of the two."
        for entry, problem in found
        if problem
    ]


def _is_there(entry: str) -> bool:
    try:
        _get(entry)
    except (ImportError, AttributeError):
        return False
    return True


def _problem(entry: str) -> str | None:
    try:
        thing = _get(entry)
    except (ImportError, AttributeError) as e:
        return f"is not there ({e})"
    _, called, arguments = entry.rstrip(")").partition("(")
    if not called:
        return None
    names = [name for name in arguments.split(", ") if name]
    positional = [name for name in names if name in ("_", "self")]
    keywords = dict.fromkeys(name for name in names if name not in positional)
    try:
        inspect.signature(thing).bind(*positional, **keywords)
    except TypeError as e:
        return f"takes other arguments ({e})"
    return None


def _get(entry: str) -> Any:
    module, _, name = entry.partition("(")[0].partition(":")
    return attrgetter(name)(importlib.import_module(module))
