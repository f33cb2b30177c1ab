"""Reads and writes what Pillow can't: more than 8 bits per channel, and TIFF files of any depth.

libvips writes pixels only. Pillow writes the metadata, since libvips changes the EXIF data of PNG,
writes none in TIFF, and invents a resolution.
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
_HEADER = 8  # bytes of a TIFF file
_IHDR_END = 33


def read_deep(data: bytes, *, is_heif: bool = False) -> NDArray[np.uint16]:
    """Samples of a PNG, TIFF, AVIF or HEIC of more than 8 bits per channel, upright.

    Args:
        data: contents of the file.
        is_heif: whether it is HEIC, which libvips does not read everywhere.

    Returns:
        [h,w,C] of 16 bits, C being 1 (grey), 2 (with alpha), 3 (RGB) or 4.

    Raises:
        ValueError: a package is not installed, or the file is damaged.
    """
    if is_heif:
        image = register_heif().open_heif(data, convert_hdr_to_8bit=False)
        return _stretch(np.asarray(image), image.info["bit_depth"])
    pyvips = _pyvips()
    try:
        image = pyvips.Image.new_from_buffer(data, "", fail_on="truncated")
        bits = image.get("bits-per-sample") if image.get_typeof("heif-compression") else 16
        samples: NDArray[np.uint16] = image.autorot().numpy()
    except pyvips.Error as e:
        raise ValueError(f"it can't be read: {' '.join(str(e).split())}") from e
    return _stretch(samples.reshape(*samples.shape[:2], -1), bits)


def _stretch(samples: NDArray[np.uint16], bits: int) -> NDArray[np.uint16]:
    """Map samples, whose `bits` are the upper ones of 16, to the full range."""
    if bits == 16:
        return samples
    largest = (1 << 16) - (1 << (16 - bits))
    return (samples * (65535 / largest)).round().astype(np.uint16)


def png_bytes(samples: Samples, options: dict[str, Any]) -> bytes:
    """A PNG of [h,w,1..4] samples.

    Args:
        samples: the pixels.
        options: for Pillow, which writes the metadata.

    Raises:
        ValueError: pyvips is not installed.
    """
    pixels: bytes = _image(samples).pngsave_buffer(filter="up", keep="none")
    out = io.BytesIO()
    Image.new("L", (1, 1)).save(out, "PNG", **options)
    metadata = out.getvalue()
    metadata = metadata[_IHDR_END : metadata.rindex(b"IDAT") - 4]
    return pixels[:_IHDR_END] + metadata + pixels[pixels.index(b"IDAT") - 4 :]


def tiff_bytes(samples: Samples, metadata: Metadata) -> bytes:
    """A TIFF of [h,w,1..4] samples.

    An EXIF block is a TIFF file without pixels. The tags of libvips's pixels are added, and the
    pixels follow.

    Args:
        samples: the pixels.
        metadata: see `Metadata.fit`.

    Raises:
        ValueError: it would be too large for TIFF, or pyvips is not installed.
    """
    try:
        written: bytes = _image(samples).tiffsave_buffer(
            compression="deflate", predictor="horizontal", keep="none"
        )
    except _pyvips().Error as e:
        height, width = samples.shape[:2]
        raise ValueError(
            f"{width}x{height} pixels are too many for a TIFF file. Give --format png ({e})"
        ) from e
    exif = to_exif(metadata.exif)
    of_pixels = Image.Exif()
    of_pixels.load(written)
    exif.update({t: v for t, v in of_pixels.items() if t not in {_ORIENTATION, *RESOLUTION_TAGS}})
    if metadata.dpi:
        exif.update(zip(RESOLUTION_TAGS, (*metadata.dpi, 2), strict=True))
    blocks = {PROFILE_TAG: metadata.icc, XMP_TAG: metadata.xmp, IPTC_TAG: metadata.iptc}
    exif.update({tag: block for tag, block in blocks.items() if block})
    exif.endian = of_pixels.endian
    places = np.atleast_1d(exif[_STRIP_OFFSETS])
    exif[_STRIP_OFFSETS] = tuple(int(place) - _HEADER for place in places)  # behind the tags
    return exif.tobytes()[6:] + written[_HEADER:]


def _image(samples: Samples) -> Any:
    grey = samples.shape[2] < 3
    kinds = ("b-w", "srgb") if samples.itemsize == 1 else ("grey16", "rgb16")
    return _pyvips().Image.new_from_array(samples, interpretation=kinds[not grey])


def _pyvips() -> Any:
    logging.getLogger("pyvips").setLevel(logging.ERROR)
    try:
        import pyvips
    except (ModuleNotFoundError, OSError) as e:
        raise ValueError(
            f"TIFF files and pictures of more than 8 bits need the package pyvips ({e}). Install "
            "it: pip install 'pyvips[binary]'"
        ) from e
    return pyvips


def check_avif() -> None:
    """Raises ValueError if Pillow can't read and write AVIF."""
    if not features.check("avif"):
        raise ValueError(
            f"AVIF files need Pillow 11.3 or newer, got {features.version('pil')}. Install it: "
            "pip install --upgrade Pillow"
        )


def register_heif() -> Any:
    """Have Pillow open HEIC files.

    Returns:
        The package pillow_heif.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import pillow_heif
    except (ModuleNotFoundError, OSError) as e:
        raise ValueError(
            f"HEIC files need the package pillow-heif ({e}). Install it: pip install pillow-heif"
        ) from e
    pillow_heif.register_heif_opener()
    return pillow_heif
