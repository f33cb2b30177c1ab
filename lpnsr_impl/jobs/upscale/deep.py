"""What Pillow can't do, by libvips: pictures of 16 bits a channel, and TIFF files of any depth.

libvips writes pixels. What surrounds them is written by Pillow, since libvips changes the EXIF data
of PNG, knows none in TIFF, and makes a resolution up.
"""

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import putchunk

from .metadata import RESOLUTION_TAGS, Metadata

Samples = NDArray[np.uint8] | NDArray[np.uint16]

_STRIP_OFFSETS, _ORIENTATION = 273, 274
_HEADER = 8  # bytes of a TIFF file
_IHDR_END = 33


def read_deep(data: bytes) -> NDArray[np.uint16]:
    """Samples of a 16-bit PNG or TIFF, upright.

    Returns:
        [h,w,C], C being 1 (grey), 2 (with alpha), 3 (RGB) or 4.

    Raises:
        ValueError: pyvips is not installed, or the file is damaged.
    """
    pyvips = _pyvips()
    try:
        image = pyvips.Image.new_from_buffer(data, "", fail_on="truncated")
        samples: NDArray[np.uint16] = image.autorot().numpy()
    except pyvips.Error as e:
        raise ValueError(f"it can't be read: {' '.join(str(e).split())}") from e
    return samples.reshape(*samples.shape[:2], -1)


def png_bytes(samples: Samples, metadata: Metadata, exif: Image.Exif) -> bytes:
    """A PNG of [h,w,1..4] samples.

    Raises:
        ValueError: pyvips is not installed.
    """
    written: bytes = _image(samples).pngsave_buffer(filter="up", keep="none")
    out = io.BytesIO()
    out.write(written[:_IHDR_END])
    if metadata.icc:
        putchunk(out, b"iCCP", b"ICC profile\0\0", zlib.compress(metadata.icc))
    if metadata.dpi:
        x, y = (round(dpi / 0.0254) for dpi in metadata.dpi)
        putchunk(out, b"pHYs", struct.pack(">IIB", x, y, 1))
    if len(exif):
        putchunk(out, b"eXIf", exif.tobytes()[6:])
    out.write(written[written.index(b"IDAT") - 4 :])
    return out.getvalue()


def tiff_bytes(samples: Samples, metadata: Metadata, exif: Image.Exif) -> bytes:
    """A TIFF of [h,w,1..4] samples.

    An EXIF block is a TIFF file without pixels. The tags of libvips's pixels are added, and the
    pixels follow.

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
    of_pixels = Image.Exif()
    of_pixels.load(written)
    exif.update({t: v for t, v in of_pixels.items() if t not in {_ORIENTATION, *RESOLUTION_TAGS}})
    if metadata.dpi:
        exif.update(zip(RESOLUTION_TAGS, (*metadata.dpi, 2), strict=True))
    if metadata.icc:
        exif[34675] = metadata.icc
    exif.endian = of_pixels.endian
    places = np.atleast_1d(exif[_STRIP_OFFSETS])
    exif[_STRIP_OFFSETS] = tuple(int(place) - _HEADER for place in places)  # behind the tags
    return exif.tobytes()[6:] + written[_HEADER:]


def _image(samples: Samples) -> Any:
    grey = samples.shape[2] < 3
    kinds = ("b-w", "srgb") if samples.itemsize == 1 else ("grey16", "rgb16")
    return _pyvips().Image.new_from_array(samples, interpretation=kinds[not grey])


def _pyvips() -> Any:
    try:
        import pyvips
    except (ModuleNotFoundError, OSError) as e:
        raise ValueError(
            f"16-bit pictures and TIFF files need the package pyvips ({e}). Install it: pip "
            "install 'pyvips[binary]'"
        ) from e
    return pyvips
