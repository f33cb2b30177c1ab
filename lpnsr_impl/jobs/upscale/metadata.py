"""What surrounds the pixels of a file: EXIF, colour profile, resolution."""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import ExifTags, Image

from .formats import Format

_ORIENTATION = 274
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = RESOLUTION_TAGS = 282, 283, 296
_WIDTH, _HEIGHT = 40962, 40963  # of the Exif IFD
_INCH, _CENTIMETRE = 2, 3

_STRUCTURE = frozenset(
    {
        *range(254, 260), 262, 263, 264, 265, 266, 273, *range(277, 282), 284, *range(288, 294),
        301, 317, *range(320, 348), *range(512, 522), *range(529, 533), 700, 33723, 34377, 34675,
        37724,
    }
)  # fmt: skip
"""Tags that describe how the old file stores its pixels, its thumbnail, or a block that is kept
apart (profile) or not at all (XMP, IPTC, Photoshop)."""

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


@dataclass(frozen=True)
class Metadata:
    """EXIF tags (sub-directories as dicts), ICC profile, and dots per inch; all may be empty."""

    exif: Mapping[int, Any] = field(default_factory=dict[int, Any])
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None

    @property
    def grey_profile(self) -> bool:
        """Whether the profile is for grey pictures."""
        return self.icc is not None and self.icc[16:20] == b"GRAY"

    def exif_for(self, width: int, height: int, format: Format) -> Image.Exif:
        """EXIF of an upright picture of this size.

        Without tags there are none either, but for the resolution where the format has no other
        place for it (WebP).
        """
        exif = Image.Exif()
        tags = dict(self.exif)
        if tags:
            tags[_ORIENTATION] = 1
        if self.dpi and (tags or format.pillow_name == "WEBP"):
            x, y = self.dpi
            tags |= {_X_RESOLUTION: x, _Y_RESOLUTION: y, _RESOLUTION_UNIT: _INCH}
        details = tags.get(ExifTags.IFD.Exif)
        if details:
            size = {_WIDTH: width, _HEIGHT: height}
            tags[ExifTags.IFD.Exif] = details | {t: v for t, v in size.items() if t in details}
        for tag, value in tags.items():
            exif[tag] = value
        return exif


def read_metadata(file: Image.Image) -> tuple[Metadata, list[str]]:
    """What surrounds the pixels of an opened file, before they are loaded.

    Returns:
        The metadata, and a line for each part that can't be kept.
    """
    problems: list[str] = []
    exif: dict[int, Any] = {}
    try:
        exif = _copied(file.getexif())
        Metadata(exif).exif_for(1, 1, Format("", (), True, True)).tobytes()
    except _DAMAGED as e:
        exif = {}
        problems.append(f"its EXIF data is damaged and left out ({e})")
    if not exif and not problems and file.info.get("exif") and not len(file.getexif()):
        problems.append("its EXIF data is damaged and left out")
    return Metadata(exif, file.info.get("icc_profile") or None, _dpi(file, exif)), problems


def upright(file: Image.Image) -> Image.Image:
    """The picture turned as EXIF says.

    Unlike Pillow's `exif_transpose` it does so beside damaged tags, too.
    """
    try:
        turn = _TURNS.get(file.getexif().get(_ORIENTATION, 1))
    except _DAMAGED:
        turn = None
    file.load()
    # Pillow has turned a TIFF while it was loaded.
    return file if turn is None or file.format == "TIFF" else file.transpose(turn)


def _copied(exif: Image.Exif) -> dict[int, Any]:
    """Tags that stay true for another file; the thumbnail's directory is not among them."""
    ifds = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
    tags = {t: v for t, v in exif.items() if t not in _STRUCTURE and t not in ifds}
    for ifd in ifds:
        if values := dict(exif.get_ifd(ifd)):
            values.pop(ExifTags.IFD.Interop, None)  # a pointer into the old file
            tags[ifd] = values
    return tags


def _dpi(file: Image.Image, exif: Mapping[int, Any]) -> tuple[float, float] | None:
    """The file's own resolution, or else EXIF's."""
    found = file.info.get("dpi")
    if file.format == "TIFF" and _X_RESOLUTION not in exif:
        return None  # Pillow's own default
    if not found and exif.get(_RESOLUTION_UNIT) in (_INCH, _CENTIMETRE):
        per_inch = 2.54 if exif[_RESOLUTION_UNIT] == _CENTIMETRE else 1.0
        try:
            found = [float(exif[tag]) * per_inch for tag in (_X_RESOLUTION, _Y_RESOLUTION)]
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            return None
    if not found:
        return None
    x, y = float(found[0]), float(found[1])
    return (x, y) if math.isfinite(x) and math.isfinite(y) and min(x, y) > 0 else None
