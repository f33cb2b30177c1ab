"""Image formats for results, what each format can store, and the file names of results."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from ...pictures.reading import SUFFIXES

SAME = "same"
"""Value of --format that keeps the input's format."""

RECORDS = ".lpnsr"
"""Name of the subfolder of the output folder that holds the records (see `results.Record`)."""

READ_SUFFIXES = SUFFIXES | {".gif", ".jfif", ".heic", ".heif", ".hif"}

EXIF, XMP, IPTC, TEXT = "EXIF", "XMP", "IPTC", "text"
PROFILE, DPI = "colour profile", "resolution"


@dataclass(frozen=True)
class Format:
    """A format that results can be written in.

    Attributes:
        pillow_name: name of the format in Pillow.
        suffixes: file name suffixes; new names get the first one.
        metadata: parts of the metadata that the format can store.
        alpha: whether it can store transparency.
        deep: whether it can store 16 bits per channel.
        grey: whether it stores grey pictures as a single channel, as grey colour profiles require.
        max_side: maximum width and height in pixels.
        max_block: maximum size of each metadata block (EXIF, XMP, IPTC) in bytes.
        options: keyword arguments for Pillow's `save`.
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
        # Common AVIF decoders reject pictures with more than 16384² pixels.
        "AVIF", (".avif",), _COMMON, grey=False, max_side=16384,
        options={"quality": 90, "subsampling": "4:4:4"},
    ),
    "tif": Format("TIFF", (".tif", ".tiff"), _COMMON | {DPI, IPTC}, deep=True),
    "bmp": Format("BMP", (".bmp",), frozenset({DPI}), alpha=False),
}  # fmt: skip

SPARE = FORMATS["png"]
"""Fallback for pictures that the chosen format can't store. PNG can store every picture."""


def format_of(name: str) -> Format | None:
    """The format that has a file name's suffix; None if results can't be written in it."""
    suffix = PurePosixPath(name).suffix.lower()
    return next((f for f in FORMATS.values() if suffix in f.suffixes), None)


def result_name(name: str, format_name: str) -> str:
    """Name of a picture's result: the input's name, with the suffix changed if the format differs.

    Args:
        name: name of the input.
        format_name: a key of `FORMATS`, or "same". For formats that can only be read (GIF, HEIC),
            "same" means PNG.
    """
    format = (format_of(name) or SPARE) if format_name == SAME else FORMATS[format_name]
    path = PurePosixPath(name)
    if path.suffix.lower() in format.suffixes:
        return name
    return str(path.with_suffix(format.suffixes[0]))


def spare_name(name: str) -> str:
    """Name of the fallback PNG, used if the format of the result `name` can't store the picture."""
    return name + SPARE.suffixes[0]


def record_name(result: str) -> str:
    """Name of a result's record: a hash of the result's name, so that the length is fixed."""
    key = hashlib.sha256(result.encode(errors="surrogateescape")).hexdigest()[:32]
    return f"{RECORDS}/{key}.json"
