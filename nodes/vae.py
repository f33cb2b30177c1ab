"""The `vae` output, which makes the family's autoencoder usable in ComfyUI's own VAE nodes."""

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
    """An autoencoder of this pack as a VAE of ComfyUI.

    It encodes to continuous latents, and quantises latents before decoding. It shares its weights
    and patcher with `managed`, so nothing is in memory twice.
    """

    def __init__(self, managed: Managed[Autoencoder]) -> None:
        # With an empty state dict, as of a checkpoint without a VAE, ComfyUI sets its defaults.
        with _without_warning("No VAE weights detected"):
            super().__init__(sd={})
        network, device = managed.network, managed.device
        self.first_stage_model = network
        self.patcher = managed.patcher
        self.device = device
        self.output_device = mm.intermediate_device()
        self.vae_dtype = torch.float32  # the network casts its input itself; VQ codes need fp32
        self.working_dtypes = [torch.float32]
        self.latent_channels = network.config.embed_channels
        self.downscale_ratio = self.upscale_ratio = SCALE
        self.memory_used_encode = lambda shape, dtype: activation_bytes(
            network, shape[2] // SCALE, shape[3] // SCALE, device, encoding=True
        )
        self.memory_used_decode = lambda shape, dtype: activation_bytes(
            network, shape[2], shape[3], device
        )


class UnavailableVAE:
    """Replaces the VAE if `FamilyVAE` can't be created. Nodes that use it fail with the reason."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(self._reason)


def make_vae(managed: Managed[Autoencoder]) -> FamilyVAE | UnavailableVAE:
    """Create a VAE from the autoencoder.

    If that fails, the error is logged, and raised only when a node uses the VAE. The other output
    of Load LPNSR Models stays usable.
    """
    try:
        return FamilyVAE(managed)
    except Exception as e:
        logging.exception("LPNSR: ComfyUI does not accept the autoencoder as a VAE.")
        return UnavailableVAE(
            f"The vae output of Load LPNSR Models does not work with ComfyUI {comfyui_version} "
            f"({e}). Its models output still works: use ResShift Encode and LPNSR Decode instead "
            "of nodes that take a VAE, and look for a newer version of LPNSR."
        )


@contextlib.contextmanager
def _without_warning(text: str) -> Generator[None]:
    """Suppress log records that contain `text`."""

    def is_other(record: logging.LogRecord) -> bool:
        return text not in record.getMessage()

    logging.getLogger().addFilter(is_other)
    try:
        yield
    finally:
        logging.getLogger().removeFilter(is_other)
