"""What each file format can hold, and how results are named."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from ...pictures.reading import SUFFIXES

SAME = "same"
"""The choice to keep the format of the input."""

RECORDS = ".lpnsr"
"""Folder of the records, within the folder of results."""

READ_SUFFIXES = SUFFIXES | {".gif", ".jfif", ".heic", ".heif", ".hif"}

EXIF, XMP, IPTC, TEXT = "EXIF", "XMP", "IPTC", "text"
PROFILE, DPI = "colour profile", "resolution"


@dataclass(frozen=True)
class Format:
    """A format that results are written in.

    Attributes:
        pillow_name: its name in Pillow.
        suffixes: the first one is given to new names.
        metadata: parts of the metadata that it has a place for.
        alpha, deep: whether it holds transparency, and 16 bits per channel.
        grey: whether it stores all grey pictures without colour, as a grey colour profile needs.
        max_side: largest side in pixels.
        max_block: largest size in bytes of EXIF, XMP or IPTC.
        options: arguments of Pillow's `save`.
    """

    pillow_name: str
    suffixes: tuple[str, ...]
    metadata: frozenset[str]
    alpha: bool = True
    deep: bool = False
    grey: bool = True
    max_side: int = 2**31 - 1
    max_block: int = 2**31 - 1
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


_COMMON = frozenset({EXIF, PROFILE, XMP})

FORMATS: dict[str, Format] = {
    "png": Format("PNG", (".png",), _COMMON | {DPI, TEXT}, deep=True),
    "jpg": Format(
        "JPEG", (".jpg", ".jpeg", ".jfif"), _COMMON | {DPI, IPTC}, alpha=False, max_side=65500,
        max_block=65_000, options={"quality": 95, "subsampling": 0},
    ),
    "webp": Format(
        "WEBP", (".webp",), _COMMON, grey=False, max_side=16383,
        options={"quality": 95, "exact": True},
    ),
    "avif": Format(
        # readers refuse more than 16384² pixels
        "AVIF", (".avif",), _COMMON, grey=False, max_side=16384,
        options={"quality": 90, "subsampling": "4:4:4"},
    ),
    "tif": Format("TIFF", (".tif", ".tiff"), _COMMON | {DPI, IPTC}, deep=True),
    "bmp": Format("BMP", (".bmp",), frozenset({DPI}), alpha=False),
}  # fmt: skip

SPARE = FORMATS["png"]
"""Format that can hold every picture."""


def format_of(name: str) -> Format | None:
    """The format that belongs to a file name's suffix; None if no results are written in it."""
    suffix = PurePosixPath(name).suffix.lower()
    return next((f for f in FORMATS.values() if suffix in f.suffixes), None)


def result_name(name: str, format_name: str) -> str:
    """Name of a picture's result: the input's name, with another suffix where the format needs it.

    Args:
        name: of the input.
        format_name: a key of `FORMATS`, or "same", which is png for formats that are only read
            (gif, heic).
    """
    chosen = (format_of(name) or SPARE) if format_name == SAME else FORMATS[format_name]
    path = PurePosixPath(name)
    if path.suffix.lower() in chosen.suffixes:
        return name
    return str(path.with_suffix(chosen.suffixes[0]))


def spare_name(name: str) -> str:
    """Name of the PNG written instead of `result_name` where that format can't hold the result."""
    return name + SPARE.suffixes[0]


def record_name(result: str) -> str:
    """Name of a result's record; short, however long the result's name is."""
    key = hashlib.sha256(result.encode(errors="surrogateescape")).hexdigest()[:32]
    return f"{RECORDS}/{key}.json"
