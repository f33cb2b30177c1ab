"""The `vae` output: the family's autoencoder for ComfyUI's own VAE nodes."""

import contextlib
import logging
from collections.abc import Generator
from typing import Any

import comfy.model_management as mm
import comfy.sd
import torch
from comfyui_version import __version__ as comfyui_version

from ..lpnsr_impl.config import SCALE
from ..lpnsr_impl.engine.memory import activation_bytes
from ..lpnsr_impl.models import Autoencoder
from .host import Managed


class FamilyVAE(comfy.sd.VAE):
    """The family's autoencoder as a VAE of ComfyUI.

    It encodes to the continuous latent and decodes the nearest codes. Weights and patcher are those
    of `managed`, so nothing is in memory twice.
    """

    def __init__(self, managed: Managed[Autoencoder]) -> None:
        # Sets the defaults of this ComfyUI's version, as for a checkpoint without a VAE.
        with _without_warning("No VAE weights detected"):
            super().__init__(sd={})
        network, device = managed.network, managed.device
        self.first_stage_model = network
        self.patcher = managed.patcher
        self.device = device
        self.output_device = mm.intermediate_device()
        self.vae_dtype = torch.float32  # the network casts by itself, and finds codes in fp32
        self.working_dtypes = [torch.float32]
        self.latent_channels = network.config.embed_channels
        self.downscale_ratio = self.upscale_ratio = SCALE
        self.memory_used_encode = lambda shape, dtype: activation_bytes(
            network, shape[2] // SCALE, shape[3] // SCALE, device
        )
        self.memory_used_decode = lambda shape, dtype: activation_bytes(
            network, shape[2], shape[3], device
        )


class UnavailableVAE:
    """Stands for the VAE where ComfyUI refuses ours: nodes that use it fail with the reason."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(self._reason)


def make_vae(managed: Managed[Autoencoder]) -> FamilyVAE | UnavailableVAE:
    """A VAE of the autoencoder. Whatever ComfyUI says against it, the models stay usable."""
    try:
        return FamilyVAE(managed)
    except Exception as e:
        logging.exception("LPNSR: ComfyUI refuses the autoencoder as a VAE.")
        return UnavailableVAE(
            f"The vae output of Load LPNSR Models does not work with ComfyUI {comfyui_version} "
            f"({e}). Its models output does: use ResShift Encode and LPNSR Decode instead of "
            "nodes that take a VAE, and look for a newer version of LPNSR."
        )


@contextlib.contextmanager
def _without_warning(text: str) -> Generator[None]:
    """Keep one of ComfyUI's warnings out of its log."""

    def is_other(record: logging.LogRecord) -> bool:
        return text not in record.getMessage()

    logging.getLogger().addFilter(is_other)
    try:
        yield
    finally:
        logging.getLogger().removeFilter(is_other)
