"""Upscale model whose outputs are training targets of a smaller network, cached on disk."""

import os
from pathlib import Path

import torch
from spandrel import ImageModelDescriptor, ModelLoader
from torch import Tensor, nn

from ...config import SCALE
from ...pictures.images import to_01, to_pm1
from ...pictures.reading import read_picture, to_pil
from .data import Sample, apply_turn, undo_turn


class Teacher(nn.Module):
    """Frozen x4 upscale model of any architecture that spandrel supports.

    Raises:
        ValueError: the file is not a x4 upscale model for RGB images.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        model = ModelLoader("cpu").load_from_file(str(path))
        if (
            not isinstance(model, ImageModelDescriptor)
            or (model.input_channels, model.output_channels, model.scale) != (3, 3, SCALE)
        ):  # fmt: skip
            raise ValueError(
                f"{path.name} is {model.architecture.name} x{model.scale} with "
                f"{model.input_channels} input and {model.output_channels} output channels, "
                f"expected an upscale model x{SCALE} for RGB pictures."
            )
        self.network: nn.Module = model.model.float().eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, lr: Tensor) -> Tensor:
        """Upscale images. lr: [B,3,h,w] -> float32 [B,3,4h,4w], both in [-1,1]"""
        return to_pm1(self.network(to_01(lr)).float().clamp(0, 1))

    def upscale_cached(self, batch: Sample, folder: Path) -> Tensor:
        """Upscale a batch with a cache of one 8-bit PNG file per crop.

        Args:
            batch: {"lr": [B,3,s/4,s/4] in [-1,1], "crop": int64 [B], "turn": int64 [B]}.
            folder: cache folder; created if it does not exist. Use a separate one per training.

        Returns:
            [B,3,s,s] in [-1,1], flipped and rotated like the batch.
        """
        pictures: list[Tensor] = []
        for lr, crop, turn in zip(batch["lr"], batch["crop"], batch["turn"], strict=True):
            path = folder / f"{int(crop):07}.png"
            if not path.exists():
                folder.mkdir(parents=True, exist_ok=True)
                part = path.with_suffix(f".{os.getpid()}.part")
                to_pil(to_01(self(undo_turn(lr, int(turn))[None]))).save(part, "PNG")
                part.replace(path)
            pictures.append(apply_turn(to_pm1(read_picture(path)), int(turn)))
        return torch.stack(pictures).to(batch["lr"].device)
