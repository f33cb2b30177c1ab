"""ComfyUI custom nodes for LPNSR: x4 super-resolution in 1 to 4 diffusion steps."""

import logging
from typing import Any

WEB_DIRECTORY = "./js"


async def comfy_entrypoint() -> Any:
    """Called by ComfyUI. Importing the nodes only here lets this package be imported without it."""
    from .nodes import host_api

    for problem in host_api.problems():  # first, since what is gone may fail to be imported
        logging.error("LPNSR: %s", problem)
    try:
        from .nodes.extension import LPNSRExtension
    except Exception:
        logging.exception("LPNSR could not be loaded")  # the host would log no traceback
        raise
    return LPNSRExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
