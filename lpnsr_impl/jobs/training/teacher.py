"""An upscale model whose pictures a smaller one learns, and the pictures it made."""

import os
from pathlib import Path

import torch
from spandrel import ImageModelDescriptor, ModelLoader
from torch import Tensor, nn

from ...config import SCALE
from ...pictures.images import to_01, to_pm1
from ...pictures.reading import read_picture, to_pil
from .data import Sample, turned, turned_back


class Teacher(nn.Module):
    """A frozen upscale model x4 of any architecture that spandrel knows.

    Raises:
        ValueError: it does not turn RGB pictures into ones of four times their size.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        model = ModelLoader("cpu").load_from_file(str(path))
        if (
            not isinstance(model, ImageModelDescriptor)
            or (model.input_channels, model.output_channels, model.scale) != (3, 3, SCALE)
        ):  # fmt: skip
            raise ValueError(
                f"networks.teacher: {path.name} is {model.architecture.name} x{model.scale} from "
                f"{model.input_channels} to {model.output_channels} channels, expected an upscale "
                f"model x{SCALE} for RGB pictures."
            )
        self.network: nn.Module = model.model.float().eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, lr: Tensor) -> Tensor:
        """[B,3,h,w] -> float32 [B,3,4h,4w], both in [-1,1]"""
        return to_pm1(self.network(to_01(lr)).float().clamp(0, 1))

    def remember(self, batch: Sample, folder: Path) -> Tensor:
        """Its pictures of a batch, each made once for each crop and kept as 8-bit PNG.

        Args:
            batch: {"lr": [B,3,s/4,s/4] in [-1,1], "crop": int64 [B], "turn": int64 [B]}.
            folder: of this training; it is made if need be.

        Returns:
            [B,3,s,s] in [-1,1], turned as the batch is.
        """
        pictures: list[Tensor] = []
        for lr, crop, turn in zip(batch["lr"], batch["crop"], batch["turn"], strict=True):
            kept = folder / f"{int(crop):07}.png"
            if not kept.exists():
                folder.mkdir(parents=True, exist_ok=True)
                part = kept.with_suffix(f".{os.getpid()}.part")
                to_pil(to_01(self(turned_back(lr, int(turn))[None]))).save(part, "PNG")
                part.replace(kept)
            pictures.append(turned(to_pm1(read_picture(kept)), int(turn)))
        return torch.stack(pictures).to(batch["lr"].device)
