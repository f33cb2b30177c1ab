"""Reads and writes pictures with more than 8 bits per channel, and writes all TIFF files.

libvips writes only the pixels. Pillow writes the metadata, since libvips modifies EXIF data in PNG
files, drops EXIF data in TIFF files, and adds a default resolution.
"""

import io
import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from .metadata import IPTC_TAG, PROFILE_TAG, RESOLUTION_TAGS, XMP_TAG, Metadata, to_exif

Samples = NDArray[np.uint8] | NDArray[np.uint16]

_STRIP_OFFSETS, _ORIENTATION = 273, 274
_TIFF_HEADER = 8  # length of a TIFF file's header in bytes
_IHDR_END = 33  # offset of the end of a PNG file's first chunk (IHDR) in bytes


def read_deep(data: bytes, *, is_heif: bool = False) -> NDArray[np.uint16]:
    """Read a PNG, TIFF, AVIF or HEIC file of more than 8 bits per channel, and rotate it upright.

    Args:
        data: contents of the file.
        is_heif: whether it is a HEIC file. HEIC is read with pillow_heif, since only some builds of
            libvips support it.

    Returns:
        16-bit samples [h,w,C], where C is 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha).

    Raises:
        ValueError: a package is not installed, or the file is damaged.
    """
    if is_heif:
        image = register_heif().open_heif(data, convert_hdr_to_8bit=False)
        return _stretch(np.asarray(image), image.info["bit_depth"])
    pyvips = _import_pyvips()
    try:
        image = pyvips.Image.new_from_buffer(data, "", fail_on="truncated")
        bits = image.get("bits-per-sample") if image.get_typeof("heif-compression") else 16
        samples: NDArray[np.uint16] = image.autorot().numpy()
    except pyvips.Error as e:
        raise ValueError(f"the file can't be read: {' '.join(str(e).split())}") from e
    return _stretch(samples.reshape(*samples.shape[:2], -1), bits)


def _stretch(samples: NDArray[np.uint16], bits: int) -> NDArray[np.uint16]:
    """Scale samples that use only the upper `bits` of 16 bits to the full 16-bit range."""
    if bits == 16:
        return samples
    max_sample = (1 << 16) - (1 << (16 - bits))
    return (samples * (65535 / max_sample)).round().astype(np.uint16)


def encode_png(samples: Samples, options: dict[str, Any]) -> bytes:
    """Encode a PNG file.

    Args:
        samples: pixels, [h,w,1..4].
        options: keyword arguments for Pillow's `save`, which writes the metadata.

    Raises:
        ValueError: pyvips is not installed.
    """
    pixels: bytes = _to_vips(samples).pngsave_buffer(filter="up", keep="none")
    out = io.BytesIO()
    Image.new("L", (1, 1)).save(out, "PNG", **options)
    metadata = out.getvalue()
    metadata = metadata[_IHDR_END : metadata.rindex(b"IDAT") - 4]
    return pixels[:_IHDR_END] + metadata + pixels[pixels.index(b"IDAT") - 4 :]


def encode_tiff(samples: Samples, metadata: Metadata) -> bytes:
    """Encode a TIFF file.

    An EXIF block is a TIFF file without pixels, so the EXIF block becomes the file: the tags that
    describe the pixels are added to it, and the pixels, encoded by libvips, are appended.

    Args:
        samples: pixels, [h,w,1..4].
        metadata: metadata that `Metadata.fit` returned.

    Raises:
        ValueError: the picture is too large for TIFF, or pyvips is not installed.
    """
    try:
        written: bytes = _to_vips(samples).tiffsave_buffer(
            compression="deflate", predictor="horizontal", keep="none"
        )
    except _import_pyvips().Error as e:
        height, width = samples.shape[:2]
        raise ValueError(
            f"{width}x{height} pixels are too large for a TIFF file. Give --format png ({e})"
        ) from e
    exif = to_exif(metadata.exif)
    pixel_tags = Image.Exif()
    pixel_tags.load(written)
    exif.update({t: v for t, v in pixel_tags.items() if t not in {_ORIENTATION, *RESOLUTION_TAGS}})
    if metadata.dpi:
        exif.update(zip(RESOLUTION_TAGS, (*metadata.dpi, 2), strict=True))
    blocks = {PROFILE_TAG: metadata.icc, XMP_TAG: metadata.xmp, IPTC_TAG: metadata.iptc}
    exif.update({tag: block for tag, block in blocks.items() if block})
    exif.endian = pixel_tags.endian
    offsets = np.atleast_1d(exif[_STRIP_OFFSETS])
    # Pillow's `tobytes` adds the length of the tags to the strip offsets.
    exif[_STRIP_OFFSETS] = tuple(int(offset) - _TIFF_HEADER for offset in offsets)
    return exif.tobytes()[6:] + written[_TIFF_HEADER:]


def _to_vips(samples: Samples) -> Any:
    grey = samples.shape[2] < 3
    kinds = ("b-w", "srgb") if samples.itemsize == 1 else ("grey16", "rgb16")
    return _import_pyvips().Image.new_from_array(samples, interpretation=kinds[not grey])


def _import_pyvips() -> Any:
    """Import pyvips, or raise ValueError if it is not installed."""
    logging.getLogger("pyvips").setLevel(logging.ERROR)
    try:
        import pyvips
    except (ModuleNotFoundError, OSError) as e:
        raise ValueError(
            "TIFF files and pictures with more than 8 bits per channel need the package pyvips "
            f"({e}). Install it: pip install 'pyvips[binary]'"
        ) from e
    return pyvips


def check_avif() -> None:
    """Raise ValueError if Pillow can't read and write AVIF."""
    if not features.check("avif"):
        raise ValueError(
            f"AVIF files need Pillow 11.3 or newer, got {features.version('pil')}. Install it: "
            "pip install --upgrade Pillow"
        )


def register_heif() -> Any:
    """Register pillow_heif with Pillow, so that Pillow opens HEIC files.

    Returns:
        The package pillow_heif.

    Raises:
        ValueError: pillow_heif is not installed.
    """
    try:
        import pillow_heif
    except (ModuleNotFoundError, OSError) as e:
        raise ValueError(
            f"HEIC files need the package pillow-heif ({e}). Install it: pip install pillow-heif"
        ) from e
    pillow_heif.register_heif_opener()
    return pillow_heif
