"""Reads and encodes image files, including bit depth, transparency and metadata."""

import io
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image, ImageCms, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from ...main_memory import available
from ...pictures.images import split_channels
from ...pictures.picture import Picture
from . import deep
from .formats import Format
from .metadata import Metadata
from .metadata_reading import read_metadata, turn_upright

_READ = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_MANY_PICTURES = ("MPO", "HEIF")
"""Formats in which phones store previews, depth maps and gain maps along with the main picture."""

_READ_BYTES = 40
"""Memory for reading a picture, in bytes per pixel: its samples and two float32 copies."""

_AV1_HIGH_BIT_DEPTH = 0x40  # flag in the third byte of the codec configuration (av1C)
_GREY = {"1", "L", "LA", "La"}
_DEEP_MODES = {"I;16", "I;16B", "I", "L", "LA", "RGB", "RGBA", "RGBX", "RGBa"}


@dataclass(frozen=True, kw_only=True)
class FilePicture(Picture):
    """A single picture (B = 1) with the properties of its file.

    Attributes:
        grey: whether the picture is grey. If so, the result is also stored as grey.
        bits: bits per channel, 8 or 16.
        metadata: metadata of the file.
        notes: messages for the user about data that could not be kept.
    """

    grey: bool
    bits: int
    metadata: Metadata
    notes: tuple[str, ...] = ()


def read_picture_data(data: bytes) -> FilePicture:
    """Read a picture from the contents of a file, and apply its EXIF orientation.

    Raises:
        ValueError: the file is not a picture, is damaged, or has several frames or an unsupported
            sample format.
        OSError: the file is truncated.
        MemoryError: there is not enough free memory to read the picture.
    """
    with _open(data) as file:
        width, height = file.size
        needed, free = _READ_BYTES * width * height, available()
        if needed > free:
            raise MemoryError(
                f"{width}x{height} pixels need {needed / 2**30:.1f} GB of memory to be read, "
                f"and {free / 2**30:.1f} GB are free"
            )
        return _read(file, data)


def encode_picture(picture: FilePicture, format: Format) -> tuple[bytes, list[str]]:
    """Encode a picture as a file.

    Args:
        picture: the picture. Its colours and alpha are clamped to [0,1].
        format: format of the file. If it can't store alpha, alpha is dropped. If it can't store 16
            bits per channel, 8 are stored.

    Returns:
        Contents of the file, and notes about bits and metadata that were lost.

    Raises:
        ValueError: a package is not installed, or the picture is too large for the format.
    """
    rgb = picture.rgb.mean(dim=1, keepdim=True) if picture.grey else picture.rgb
    planes = [rgb] if picture.alpha is None or not format.alpha else [rgb, picture.alpha]
    x = torch.cat(planes, dim=1)[0].movedim(0, -1).clamp(0, 1)
    metadata, notes = picture.metadata.fit(format, (x.shape[1], x.shape[0]))
    if picture.bits == 16 and format.deep:
        samples = (x * 65535).round().numpy().astype(np.uint16)
    else:
        samples = (x * 255).round().numpy().astype(np.uint8)
    if loses_bits(picture, format):
        notes.insert(0, "16 bits become 8")
    if format.pillow_name == "TIFF":
        return deep.encode_tiff(samples, metadata), notes
    if format.pillow_name == "AVIF":
        deep.check_avif()
    options = dict(format.options) | metadata.save_options(format)
    if samples.shape[2] == 1:
        options.pop("subsampling", None)  # with this option, Pillow stores grey AVIF as colour
    if samples.dtype == np.uint16:
        return deep.encode_png(samples, options), notes
    out = io.BytesIO()
    Image.fromarray(samples.squeeze(2) if samples.shape[2] == 1 else samples).save(
        out, format.pillow_name, **options
    )
    return out.getvalue(), notes


def find_loss(picture: FilePicture, format: Format, size: tuple[int, int]) -> str | None:
    """Name the first property of a picture's result that the format can't store, or return None.

    The bits per channel are not checked here, but by `loses_bits`.

    Args:
        picture: the input.
        format: format of the result.
        size: (height, width) of the result.
    """
    h, w = size
    if picture.alpha is not None and not format.alpha and picture.alpha.min() < 1:
        return "transparency"
    if max(h, w) > format.max_side:
        return f"a size of {w}x{h} (at most {format.max_side})"
    if picture.metadata.has_grey_profile and not format.grey:
        return "a grey colour profile"
    return None


def loses_bits(picture: FilePicture, format: Format) -> bool:
    """Return whether the format reduces the picture's 16 bits per channel to 8."""
    return picture.bits == 16 and not format.deep


def _open(data: bytes) -> Image.Image:
    """Open a file with Pillow, but without Pillow's limit on the number of pixels.

    `read_picture_data` checks the free memory instead.
    """
    formats: list[str] = [*_READ]
    if data[8:12] in (b"avif", b"avis"):
        deep.check_avif()
        formats.append("AVIF")
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        deep.register_heif()
        formats.append("HEIF")
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        return Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError as e:
        raise ValueError(
            "the file is damaged, or not a picture in a known format "
            f"({', '.join(_READ)}, AVIF, HEIC)"
        ) from e
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _read(file: Image.Image, data: bytes) -> FilePicture:
    frames = getattr(file, "n_frames", 1)
    metadata, notes = read_metadata(file, data)
    if frames > 1 and file.format not in _MANY_PICTURES:
        raise ValueError(
            f"the file has {frames} frames or pages, expected a single picture. Split the file "
            "into single pictures first"
        )
    num_extras = frames - 1 + sum(len(file.info.get(key, ())) for key in ("aux", "depth_images"))
    if num_extras:
        notes.append(f"left out: {num_extras} more pictures in the file (preview, depth, gain map)")
    bits = _read_bits(file, data)
    if bits == 16 and file.mode in _DEEP_MODES:
        samples = deep.read_deep(data, is_heif=file.format == "HEIF")
        x = torch.from_numpy(samples.astype(np.float32) / 65535)
        extra_samples = file.tag_v2.get(338, ()) if isinstance(file, TiffImageFile) else ()
        if extra_samples == (0,):
            x = x[..., :-1]  # the last channel is unspecified, not alpha
        return _make_picture(x, 16, metadata, notes)
    if file.mode in ("I", "F") or file.mode.startswith("I;16"):
        raise ValueError(
            "the samples are floating-point, signed, or have 12 or 32 bits; expected 8 or 16 bits, "
            "unsigned. Convert the file first"
        )
    if bits == 16:
        notes.append(f"16-bit {file.mode} becomes 8-bit RGB")
    upright = turn_upright(file)
    if upright.mode in ("CMYK", "LAB"):
        upright, metadata = _to_srgb(upright, metadata)
    mode = "L" if upright.mode in _GREY else "RGB"
    if upright.has_transparency_data:
        mode += "A"
    array = np.asarray(upright.convert(mode), dtype=np.float32) / 255
    return _make_picture(torch.from_numpy(array), 8, metadata, notes)


def _make_picture(x: Tensor, bits: int, metadata: Metadata, notes: list[str]) -> FilePicture:
    """Create a picture from samples [h,w] or [h,w,1..4] in [0,1]."""
    x = x.reshape(*x.shape[:2], -1).movedim(-1, 0)[None].contiguous()
    (rgb, alpha), channels = split_channels(x), x.shape[1]
    if alpha is None and channels in (2, 4):
        notes.append("its alpha channel is opaque everywhere and left out")
    grey = channels < 3
    return FilePicture(rgb, alpha, grey=grey, bits=bits, metadata=metadata, notes=tuple(notes))


def _read_bits(file: Image.Image, data: bytes) -> int:
    """Return the bits per channel. AVIF and HEIC files with 10 or 12 bits count as 16 bits; signed
    and float samples as 0."""
    if file.format == "PNG":
        return data[24]
    if file.format == "AVIF":
        return 16 if data[data.find(b"av1C") + 6] & _AV1_HIGH_BIT_DEPTH else 8
    if file.format == "HEIF":
        return 16 if file.info["bit_depth"] > 8 else 8
    if isinstance(file, TiffImageFile):
        signed = any(kind != 1 for kind in file.tag_v2.get(339, (1,)))
        return 0 if signed else max(file.tag_v2.get(258, (1,)))
    return 8


def _to_srgb(picture: Image.Image, metadata: Metadata) -> tuple[Image.Image, Metadata]:
    """Convert a LAB or CMYK picture to sRGB. CMYK without a colour profile is converted by
    Pillow's formula."""
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
        raise ValueError(
            f"the colour profile can't be applied to a {picture.mode} picture: {e}"
        ) from e
    assert converted is not None
    icc = ImageCms.ImageCmsProfile(srgb).tobytes()
    return converted, replace(metadata, icc=icc)
