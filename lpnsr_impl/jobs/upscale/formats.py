"""What each file format can hold, and how results are named."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from ...pictures.reading import SUFFIXES

SAME = "same"
"""Choice of the format by the input's suffix."""

RECORDS = ".lpnsr"
"""Folder of the records, in the folder of results."""

READ_SUFFIXES = SUFFIXES | {".gif", ".jfif"}


@dataclass(frozen=True)
class Format:
    """A format that results are written in.

    Attributes:
        pillow_name: for Pillow.
        suffixes: the first is for new names.
        alpha, deep: whether it holds transparency, 16 bits a channel.
        grey: whether a grey picture is stored as such, as a grey colour profile needs.
        largest: side in pixels.
        options: of Pillow's `save`.
    """

    pillow_name: str
    suffixes: tuple[str, ...]
    alpha: bool
    deep: bool
    grey: bool = True
    largest: int = 2**31 - 1
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


_JPEG = {"quality": 95, "subsampling": 0}

FORMATS: dict[str, Format] = {
    "png": Format("PNG", (".png",), alpha=True, deep=True),
    "jpg": Format("JPEG", (".jpg", ".jpeg", ".jfif"), False, False, largest=65500, options=_JPEG),
    "webp": Format("WEBP", (".webp",), True, False, False, 16383, {"quality": 95, "exact": True}),
    "tif": Format("TIFF", (".tif", ".tiff"), alpha=True, deep=True),
    "bmp": Format("BMP", (".bmp",), alpha=False, deep=False),
}

SPARE = FORMATS["png"]
"""Takes every result."""


def format_of(name: str) -> Format | None:
    """The format that a file name's suffix names, if results are written in it."""
    suffix = PurePosixPath(name).suffix.lower()
    return next((f for f in FORMATS.values() if suffix in f.suffixes), None)


def result_name(name: str, format_name: str) -> str:
    """Name of a picture's result: its own where the suffix fits, else with the format's suffix.

    Args:
        name: of the input.
        format_name: a key of `FORMATS`, or "same", which is png for what is never written (gif).
    """
    chosen = (format_of(name) or SPARE) if format_name == SAME else FORMATS[format_name]
    path = PurePosixPath(name)
    if path.suffix.lower() in chosen.suffixes:
        return name
    return str(path.with_suffix(chosen.suffixes[0]))


def spare_name(name: str) -> str:
    """Name of the PNG beside `result_name`, for a result that the input's format can't hold."""
    return name + SPARE.suffixes[0]


def record_name(result: str) -> str:
    """Name of a result's record; short, however long the result's is."""
    key = hashlib.sha256(result.encode(errors="surrogateescape")).hexdigest()[:32]
    return f"{RECORDS}/{key}.json"
