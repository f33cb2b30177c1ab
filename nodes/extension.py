"""The extension that ComfyUI loads, and the list of nodes."""

from comfy_api.latest import ComfyExtension, io
from typing_extensions import override

from . import host
from .compare import LPNSRCompare
from .decode import LPNSRDecode
from .doctor import LPNSRDoctor
from .download import LPNSRDownloadModels
from .encode import ResShiftEncode
from .inspect import LPNSRInspect
from .invention import LPNSRInventionMap
from .load_models import LoadLPNSRModels
from .pre_upsample import LPNSRPreUpsample
from .sample import LPNSRSample
from .upscale import LPNSRUpscale

NODES: list[type[io.ComfyNode]] = [
    LoadLPNSRModels,
    LPNSRPreUpsample,
    ResShiftEncode,
    LPNSRSample,
    LPNSRDecode,
    LPNSRUpscale,
    LPNSRDownloadModels,
    LPNSRDoctor,
    LPNSRCompare,
    LPNSRInspect,
    LPNSRInventionMap,
]


class LPNSRExtension(ComfyExtension):
    """Registers model folders, copies the example files and lists the nodes."""

    def __init__(self) -> None:
        host.register_model_folders()
        host.offer_examples()

    @override
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


__all__ = ["LPNSRExtension"]
