"""Pictures of 16 bits a channel. Pillow reads and writes them in grey alone, so pyvips reads them.

Written here, since no library keeps EXIF in both formats: PNG from its chunks, TIFF as an EXIF
block (which is a TIFF file without pixels) with a strip of pixels behind it.
"""

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import putchunk

from .metadata import Metadata

Samples = NDArray[np.uint16]

_PNG_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
_PNG_UP = 2  # filter of a row: differences from the row above


def read_deep(data: bytes) -> Samples:
    """Samples of a 16-bit PNG or TIFF, upright.

    Returns:
        [h,w,C], C being 1 (grey), 2 (with alpha), 3 (RGB) or 4.

    Raises:
        ValueError: pyvips is not installed, or the file is damaged.
    """
    try:
        import pyvips
    except (ModuleNotFoundError, OSError) as e:
        raise ValueError(
            f"16-bit pictures need the package pyvips ({e}). Install it: pip install "
            "'pyvips[binary]'"
        ) from e
    try:
        image = pyvips.Image.new_from_buffer(data, "", fail_on="truncated")
        samples: Samples = image.autorot().numpy()
    except pyvips.Error as e:
        raise ValueError(f"it can't be read: {' '.join(str(e).split())}") from e
    return samples.reshape(*samples.shape[:2], -1)


def png_bytes(samples: Samples, metadata: Metadata, exif: Image.Exif) -> bytes:
    """A 16-bit PNG of [h,w,1..4] samples."""
    height, width, channels = samples.shape
    colour_type = _PNG_COLOUR_TYPES[channels]
    rows = samples.astype(">u2").view(np.uint8).reshape(height, -1)
    rows[1:] -= rows[:-1].copy()
    out = io.BytesIO()
    out.write(b"\x89PNG\r\n\x1a\n")
    putchunk(out, b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))
    if metadata.icc:
        putchunk(out, b"iCCP", b"ICC profile\0\0", zlib.compress(metadata.icc))
    if metadata.dpi:
        x, y = (round(dpi / 0.0254) for dpi in metadata.dpi)
        putchunk(out, b"pHYs", struct.pack(">IIB", x, y, 1))
    if len(exif):
        putchunk(out, b"eXIf", exif.tobytes()[6:])
    putchunk(out, b"IDAT", zlib.compress(np.insert(rows, 0, _PNG_UP, axis=1).tobytes()))
    putchunk(out, b"IEND", b"")
    return out.getvalue()


def tiff_bytes(samples: Samples, metadata: Metadata, exif: Image.Exif) -> bytes:
    """A 16-bit TIFF of [h,w,1..4] samples, in one deflated strip."""
    height, width, channels = samples.shape
    little = samples.astype("<u2")
    little[:, 1:] -= little[:, :-1].copy()
    strip = zlib.compress(little.tobytes())
    exif.endian = "<"
    exif[256], exif[257] = width, height
    exif[258] = (16,) * channels
    exif[259] = 8  # deflate
    exif[262] = 2 if channels > 2 else 1  # RGB, or grey from black
    exif[273] = 0  # place of the strip, from the end of the tags
    exif[277], exif[278], exif[279] = channels, height, len(strip)
    exif[317] = 2  # differences from the pixel on the left
    if channels in (2, 4):
        exif[338] = 2  # alpha, colours not multiplied by it
    if metadata.dpi:
        exif[282], exif[283], exif[296] = *metadata.dpi, 2
    if metadata.icc:
        exif[34675] = metadata.icc
    return exif.tobytes()[6:] + strip
