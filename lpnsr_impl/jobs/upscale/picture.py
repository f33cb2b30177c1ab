"""File contents to pictures and back, with depth, transparency and metadata."""

import io
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageCms, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from ...pictures.picture import Picture
from . import deep
from .formats import Format
from .metadata import Metadata, read_metadata, upright

_READ = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
_GREY = {"1", "L", "LA", "La"}
_DEEP_MODES = {"I;16", "I;16B", "I", "L", "LA", "RGB", "RGBA", "RGBX", "RGBa"}


@dataclass(frozen=True, kw_only=True)
class FilePicture(Picture):
    """A file's picture (B = 1).

    Attributes:
        grey: the file had one channel of colour, and so does the result.
        bits: 8 or 16.
        metadata: what surrounds the pixels.
        notes: lines for the user about what could not be kept.
    """

    grey: bool
    bits: int
    metadata: Metadata
    notes: tuple[str, ...] = ()


def read_picture_data(data: bytes) -> FilePicture:
    """The picture of a file's contents, upright.

    Raises:
        ValueError: it is no picture, damaged, animated, or of an unknown range.
        OSError: it is cut short.
        Image.DecompressionBombWarning: it has more pixels than Pillow's limit.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            file = Image.open(io.BytesIO(data), formats=_READ)
        except UnidentifiedImageError as e:
            raise ValueError(
                f"it is no picture of a known kind ({', '.join(_READ)}), or it is damaged"
            ) from e
        with file:
            return _read(file, data)


def encode_picture(picture: FilePicture, format: Format) -> bytes:
    """A file's contents.

    Args:
        picture: colours and alpha are clamped to [0,1]. Alpha that the format can't hold is left
            out.
        format: 16 bits become 8 where it holds no more.

    Raises:
        ValueError: pyvips is needed and not installed, or the format can't hold the size.
    """
    rgb = picture.rgb.mean(dim=1, keepdim=True) if picture.grey else picture.rgb
    planes = [rgb] if picture.alpha is None or not format.alpha else [rgb, picture.alpha]
    x = torch.cat(planes, dim=1)[0].movedim(0, -1).clamp(0, 1)
    metadata = picture.metadata
    exif = metadata.exif_for(x.shape[1], x.shape[0], format)
    if picture.bits == 16 and format.deep:
        samples = (x * 65535).round().numpy().astype(np.uint16)
    else:
        samples = (x * 255).round().numpy().astype(np.uint8)
    if format.pillow_name == "TIFF":
        return deep.tiff_bytes(samples, metadata, exif)
    if samples.dtype == np.uint16:
        return deep.png_bytes(samples, metadata, exif)
    options: dict[str, Any] = dict(format.options)
    if metadata.icc:
        options["icc_profile"] = metadata.icc
    if metadata.dpi:
        options["dpi"] = metadata.dpi
    if len(exif):
        options["exif"] = exif.tobytes()
    out = io.BytesIO()
    Image.fromarray(samples.squeeze(2) if samples.shape[2] == 1 else samples).save(
        out, format.pillow_name, **options
    )
    return out.getvalue()


def what_is_lost(picture: FilePicture, format: Format, size: tuple[int, int]) -> str | None:
    """What of a picture's result of `size`, (h, w), the format can't hold; None if it holds all.

    Fewer bits are `bits_lost`.
    """
    h, w = size
    if picture.alpha is not None and not format.alpha and picture.alpha.min() < 1:
        return "transparency"
    if max(h, w) > format.largest:
        return f"a size of {w}x{h} (at most {format.largest})"
    if picture.metadata.grey_profile and not format.grey:
        return "a grey colour profile"
    return None


def bits_lost(picture: FilePicture, format: Format) -> bool:
    """Whether 16 bits become 8."""
    return picture.bits == 16 and not format.deep


def _read(file: Image.Image, data: bytes) -> FilePicture:
    frames = getattr(file, "n_frames", 1)
    metadata, notes = read_metadata(file)
    if frames > 1 and file.format != "MPO":
        raise ValueError(
            f"it has {frames} frames or pages, and only single pictures are upscaled. Take it "
            "apart into single files first"
        )
    if frames > 1:
        notes.append(f"{frames - 1} more pictures in it (preview, depth or gain map) are left out")
    bits = _bits(file, data)
    if bits == 16 and file.mode in _DEEP_MODES:
        samples = deep.read_deep(data)
        x = torch.from_numpy(samples.astype(np.float32) / 65535)
        extra = file.tag_v2.get(338, ()) if isinstance(file, TiffImageFile) else ()
        if extra == (0,):
            x = x[..., :-1]  # not alpha
        return _picture(x, 16, metadata, notes)
    if file.mode in ("I", "F") or file.mode.startswith("I;16"):
        raise ValueError(
            "its pixels are floating-point numbers, signed, or of 12 or 32 bits; expected 8 or 16 "
            "bits without a sign. Convert it first"
        )
    if bits == 16:
        notes.append(f"16-bit {file.mode} becomes 8-bit RGB")
    turned = upright(file)
    if turned.mode in ("CMYK", "LAB"):
        turned, metadata = _to_srgb(turned, metadata)
    mode = "L" if turned.mode in _GREY else "RGB"
    if turned.has_transparency_data:
        mode += "A"
    array = np.asarray(turned.convert(mode), dtype=np.float32) / 255
    return _picture(torch.from_numpy(array), 8, metadata, notes)


def _picture(x: Tensor, bits: int, metadata: Metadata, notes: list[str]) -> FilePicture:
    """From samples, [h,w] or [h,w,1..4] in [0,1]."""
    x = x.reshape(*x.shape[:2], -1).movedim(-1, 0)[None].contiguous()
    channels = x.shape[1]
    grey = channels < 3
    rgb = x[:, :1].repeat(1, 3, 1, 1) if grey else x[:, :3]
    alpha = x[:, -1:] if channels in (2, 4) else None
    return FilePicture(rgb, alpha, grey=grey, bits=bits, metadata=metadata, notes=tuple(notes))


def _bits(file: Image.Image, data: bytes) -> int:
    """Bits a channel as the file has them, before Pillow makes them 8; 0 if signed or floating."""
    if file.format == "PNG":
        return data[24]
    if isinstance(file, TiffImageFile):
        signed = any(kind != 1 for kind in file.tag_v2.get(339, (1,)))
        return 0 if signed else max(file.tag_v2.get(258, (1,)))
    return 8


def _to_srgb(picture: Image.Image, metadata: Metadata) -> tuple[Image.Image, Metadata]:
    """RGB of CMYK by its profile, or without one by the plain rule; of LAB by definition."""
    srgb = ImageCms.createProfile("sRGB")
    if picture.mode == "LAB":
        profile = ImageCms.createProfile("LAB")
    elif metadata.icc:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(metadata.icc))
    else:
        return picture.convert("RGB"), metadata
    try:
        converted = ImageCms.profileToProfile(picture, profile, srgb, outputMode="RGB")
    except ImageCms.PyCMSError as e:
        raise ValueError(f"its colour profile can't be applied to {picture.mode}: {e}") from e
    assert converted is not None
    icc = ImageCms.ImageCmsProfile(srgb).tobytes()
    return converted, Metadata(metadata.exif, icc, metadata.dpi)
