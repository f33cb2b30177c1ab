"""TIFF files of 8 or 16 bits, with EXIF: Pillow writes no 16 bits in colour, libraries that do no
EXIF."""

import zlib

from PIL import Image

from .deep import Samples
from .metadata import Metadata

_STRIP_BYTES = 1 << 20


def tiff_bytes(samples: Samples, metadata: Metadata, exif: Image.Exif) -> bytes:
    """A TIFF of [h,w,1..4] samples.

    An EXIF block is a TIFF file without pixels. The tags of the pixels are added, and the pixels,
    deflated, follow.

    Raises:
        ValueError: it would be too large for TIFF.
    """
    height, width, channels = samples.shape
    x = samples.astype(samples.dtype.newbyteorder("<"), order="C")
    x[:, 1:] -= x[:, :-1].copy()
    rows = max(_STRIP_BYTES // x[0].nbytes, 1)
    strips = [zlib.compress(x[top : top + rows].tobytes()) for top in range(0, height, rows)]
    sizes = [len(strip) for strip in strips]
    if sum(sizes) >= 2**32 - 2**24:
        raise ValueError(f"{width}x{height} pixels are too many for a TIFF file. Give --format png")
    exif.endian = "<"
    exif[256], exif[257] = width, height
    exif[258] = (8 * samples.itemsize,) * channels
    exif[259] = 8  # deflate
    exif[262] = 2 if channels > 2 else 1  # RGB, or grey from black
    exif[273] = tuple(sum(sizes[:i]) for i in range(len(sizes)))  # places behind the tags
    exif[277], exif[278], exif[279] = channels, rows, tuple(sizes)
    exif[317] = 2  # differences from the pixel on the left
    if channels in (2, 4):
        exif[338] = 2  # alpha, colours not multiplied by it
    if metadata.dpi:
        exif[282], exif[283], exif[296] = *metadata.dpi, 2
    if metadata.icc:
        exif[34675] = metadata.icc
    return b"".join([exif.tobytes()[6:], *strips])
