"""Read image files for training and evaluation."""

import logging
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

logger = logging.getLogger(__name__)

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif"}


def picture_files(folder: Path) -> list[Path]:
    """List the files with an image suffix in a folder and its subfolders, sorted.

    Raises:
        ValueError: there are no such files.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(
            f"{folder} has no pictures. Give a folder with {', '.join(sorted(SUFFIXES))} files."
        )
    return files


def readable_pictures(folder: Path) -> list[Path]:
    """List the images in a folder and its subfolders. A warning is logged for each unreadable file.

    Raises:
        ValueError: no image can be read.
    """
    pictures: list[Path] = []
    for path in picture_files(folder):
        try:
            with Image.open(path):  # reads only the header
                pictures.append(path)
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as e:
            logger.warning("%s is left out, because it can't be read: %s", path, e)
    if not pictures:
        raise ValueError(f"None of the pictures in {folder} can be read.")
    return pictures


def read_picture(path: Path) -> Tensor:
    """Read an image as RGB, float32 [3,H,W] in [0,1], rotated as its EXIF orientation says.

    16-bit grey images keep their precision.

    Raises:
        OSError: the file can't be read.
    """
    try:
        with Image.open(path) as file:
            upright = ImageOps.exif_transpose(file)
            if upright.mode.startswith("I;16") or upright.mode == "I":
                grey = np.array(upright, dtype=np.float32) / 65535
                pixels = np.repeat(grey[..., None], 3, axis=2)
            elif upright.mode == "F":
                raise OSError("the value range of floating-point pictures is unknown")
            else:
                pixels = np.array(upright.convert("RGB"), dtype=np.float32) / 255
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
        raise OSError(f"{path} can't be read: {e}") from e
    return torch.from_numpy(pixels).movedim(-1, 0).contiguous()


def to_pil(x: Tensor) -> Image.Image:
    """Convert x, [1,3,H,W] in [0,1], to an 8-bit image."""
    eight_bit = (x[0].clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(eight_bit.movedim(0, -1).contiguous().numpy())
