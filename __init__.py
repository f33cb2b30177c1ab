"""ComfyUI custom nodes for LPNSR: x4 super-resolution in 1 to 4 diffusion steps."""

import logging
from typing import Any

WEB_DIRECTORY = "./js"


async def comfy_entrypoint() -> Any:
    """Return the extension. ComfyUI calls this function.

    The nodes are imported here, so that the package can be imported without ComfyUI.
    """
    try:
        from .nodes.extension import LPNSRExtension
    except Exception:
        # ComfyUI itself would log the exception without its traceback.
        logging.exception("LPNSR could not be loaded. It needs ComfyUI 0.3.75 or newer")
        raise
    return LPNSRExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
