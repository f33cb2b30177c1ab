"""Pictures of 16 bits a channel, which Pillow reads and writes in grey alone.

pyvips reads them. PNG is written here, chunk by chunk, since pyvips would change the EXIF data.
"""

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import putchunk

from .metadata import Metadata

Samples = NDArray[np.uint8] | NDArray[np.uint16]

_PNG_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
_PNG_UP = 2  # filter of a row: differences from the row above


def read_deep(data: bytes) -> NDArray[np.uint16]:
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
        samples: NDArray[np.uint16] = image.autorot().numpy()
    except pyvips.Error as e:
        raise ValueError(f"it can't be read: {' '.join(str(e).split())}") from e
    return samples.reshape(*samples.shape[:2], -1)


def png_bytes(samples: Samples, metadata: Metadata, exif: Image.Exif) -> bytes:
    """A PNG of [h,w,1..4] samples."""
    height, width, channels = samples.shape
    colour_type = _PNG_COLOUR_TYPES[channels]
    big = samples.astype(samples.dtype.newbyteorder(">"), order="C")
    rows = big.view(np.uint8).reshape(height, -1)
    rows[1:] -= rows[:-1].copy()
    out = io.BytesIO()
    out.write(b"\x89PNG\r\n\x1a\n")
    bits = 8 * samples.itemsize
    putchunk(out, b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
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
