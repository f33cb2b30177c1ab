"""Reads the metadata of image files."""

import io
import math
import struct
from collections.abc import Mapping
from typing import Any

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngStream
from PIL.TiffImagePlugin import TiffImageFile

from .metadata import (
    CENTIMETRE,
    COLOUR_CHUNKS,
    INCH,
    IPTC_RESOURCE,
    IPTC_TAG,
    ORIENTATION,
    PROFILE_TAG,
    RESOLUTION_TAGS,
    TEXT_CHUNKS,
    XMP_KEYWORD,
    XMP_TAG,
    Metadata,
    to_exif,
)

_STRUCTURE = frozenset(
    {
        *range(254, 260), 262, 263, 264, 265, 266, 273, *range(277, 282), 284, *range(288, 294),
        301, 317, *range(320, 348), *range(512, 522), *range(529, 533), XMP_TAG, IPTC_TAG, 34377,
        PROFILE_TAG, 37724,
    }
)  # fmt: skip
"""TIFF tags that are not copied as EXIF: the layout of the pixels and the thumbnail, parts that
`Metadata` stores separately (colour profile, XMP, IPTC), and Photoshop's block."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DAMAGED = (struct.error, ValueError, TypeError, KeyError, IndexError, SyntaxError, OSError)

_METADATA_KEYWORDS = {
    XMP_KEYWORD, *(f"Raw profile type {part}" for part in ("exif", "APP1", "xmp"))
}  # fmt: skip
"""Keywords of PNG text chunks that contain EXIF or XMP. These chunks are not copied as text."""

_SRGB_LIKE = {(p, t) for p in (1, 2) for t in (1, 2, 6, 13)}
"""ITU-T H.273 code points (primaries, transfer) that mean sRGB, BT.709 or unspecified."""


def read_metadata(file: Image.Image, data: bytes) -> tuple[Metadata, list[str]]:
    """Read the metadata of a file. Call this before Pillow loads the pixels.

    Args:
        file: the file, opened by Pillow.
        data: contents of the file.

    Returns:
        The metadata without damaged parts, and a note about each damaged part.
    """
    notes: list[str] = []
    exif: dict[int, Any] = {}
    try:
        exif = _copy_tags(file.getexif())
        to_exif(exif).tobytes()
    except _DAMAGED as e:
        exif = {}
        notes.append(f"its EXIF data is damaged and left out ({e})")
    if not exif and not notes and file.info.get("exif") and not len(file.getexif()):
        notes.append("its EXIF data is damaged and left out")
    iptc = _read_iptc(file)
    if iptc is None and isinstance(file, TiffImageFile) and IPTC_TAG in file.tag_v2:
        notes.append("its IPTC data is stored as integers, which is not supported, and left out")
    chunks, text = _read_chunks(data) if file.format == "PNG" else (_read_nclx(file, data), {})
    orientation = _read_orientation(file)
    width, height = file.size
    metadata = Metadata(
        exif,
        icc=file.info.get("icc_profile") or None,
        dpi=_read_dpi(file, exif),
        xmp=_as_bytes(file.info.get("xmp")),
        iptc=iptc,
        text=text,
        chunks=chunks,
        size=(height, width) if orientation >= 5 else (width, height),
        is_turned=file.info.get("original_orientation", orientation) not in (None, 1),
    )
    return metadata, notes


def turn_upright(file: Image.Image) -> Image.Image:
    """Load a picture and apply its EXIF orientation.

    Unlike Pillow's `exif_transpose`, this also works if other EXIF tags are damaged.
    """
    turn = _TURNS.get(_read_orientation(file))
    file.load()
    # Pillow itself applies the orientation of TIFF files when it loads them.
    return file if turn is None or file.format == "TIFF" else file.transpose(turn)


def _read_orientation(file: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 (upright) if it is missing or damaged."""
    try:
        orientation = file.getexif().get(ORIENTATION, 1)
    except _DAMAGED:
        return 1
    return orientation if orientation in _TURNS else 1


def _copy_tags(exif: Image.Exif) -> dict[int, Any]:
    """Copy the EXIF tags that are also valid for the result. The thumbnail's IFD is left out."""
    ifds = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
    tags = {t: v for t, v in exif.items() if t not in _STRUCTURE and t not in ifds}
    for ifd in ifds:
        if values := dict(exif.get_ifd(ifd)):
            values.pop(ExifTags.IFD.Interop, None)  # it is an offset into the input file
            tags[ifd] = values
    return tags


def _read_chunks(data: bytes) -> tuple[tuple[tuple[bytes, bytes], ...], dict[str, str]]:
    """Read the text and colour chunks of a PNG, and its text by keyword."""
    chunks: list[tuple[bytes, bytes]] = []
    text: dict[str, str] = {}
    file = io.BytesIO(data)
    file.seek(8)
    stream = PngStream(file)
    try:
        while (chunk := stream.read())[0] != b"IEND":
            kind, start, length = chunk
            keyword = ""
            if kind in TEXT_CHUNKS:
                contents = stream.call(kind, start, length)
                keyword = contents.split(b"\0", 1)[0].decode("latin-1")
                if keyword in stream.im_text and keyword not in _METADATA_KEYWORDS:
                    text.setdefault(keyword, str(stream.im_text[keyword]))
            if kind in TEXT_CHUNKS | COLOUR_CHUNKS and keyword not in _METADATA_KEYWORDS:
                chunks.append((kind, data[start : start + length]))
            file.seek(start + length + 4)
    except (struct.error, SyntaxError):  # truncated file; reading its pixels raises an error later
        pass
    return tuple(chunks), text


def _read_nclx(file: Image.Image, data: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Convert the colour space code points (nclx) of an AVIF or HEIC file to a PNG cICP chunk."""
    start = data.find(b"colrnclx")
    if file.format not in ("AVIF", "HEIF") or start < 0 or file.info.get("icc_profile"):
        return ()
    primaries, transfer = struct.unpack(">HH", data[start + 8 : start + 12])
    if (primaries, transfer) in _SRGB_LIKE or max(primaries, transfer) > 255:
        return ()
    return ((b"cICP", bytes((primaries, transfer, 0, 1))),)


def _read_iptc(file: Image.Image) -> bytes | None:
    if isinstance(file, TiffImageFile):
        return _as_bytes(file.tag_v2.get(IPTC_TAG))
    return _as_bytes(file.info.get("photoshop", {}).get(IPTC_RESOURCE))


def _as_bytes(value: Any) -> bytes | None:
    if isinstance(value, tuple) and len(value) == 1:
        (value,) = value
    return value.encode() if isinstance(value, str) else value if isinstance(value, bytes) else None


def _read_dpi(file: Image.Image, exif: Mapping[int, Any]) -> tuple[float, float] | None:
    """Read the resolution from the file's own fields or, if there are none, from EXIF."""
    dpi = file.info.get("dpi")
    unit = exif.get(RESOLUTION_TAGS[2])
    if file.format == "TIFF" and RESOLUTION_TAGS[0] not in exif:
        return None  # the file has no resolution; `dpi` is Pillow's default
    if not dpi and unit in (INCH, CENTIMETRE):
        per_inch = 2.54 if unit == CENTIMETRE else 1.0
        try:
            dpi = [float(exif[tag]) * per_inch for tag in RESOLUTION_TAGS[:2]]
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            return None
    if not dpi:
        return None
    x, y = float(dpi[0]), float(dpi[1])
    return (x, y) if math.isfinite(x) and math.isfinite(y) and min(x, y) > 0 else None
