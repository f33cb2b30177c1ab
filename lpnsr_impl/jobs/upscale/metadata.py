"""Metadata of results: EXIF, XMP, IPTC, PNG text, colour profile and resolution."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from .formats import DPI, EXIF, FORMATS, IPTC, PROFILE, TEXT, XMP, Format
from .xmp import correct_xmp

ORIENTATION = 274
RESOLUTION_TAGS = 282, 283, 296  # along x, along y, unit
INCH, CENTIMETRE = 2, 3  # units
_WIDTH, _HEIGHT = 40962, 40963  # of the Exif IFD
XMP_TAG, IPTC_TAG, PROFILE_TAG = 700, 33723, 34675
IPTC_RESOURCE = 0x0404  # of a JPEG's Photoshop block

TEXT_CHUNKS = {b"tEXt", b"zTXt", b"iTXt"}
COLOUR_CHUNKS = {b"cICP", b"gAMA", b"cHRM", b"sRGB"}
XMP_KEYWORD = "XML:com.adobe.xmp"
_SRGB_GAMMA = struct.pack(">L", 45455)
_SRGB_PRIMARIES = struct.pack(">8L", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
_HDR = {16: "PQ", 18: "HLG"}  # transfer functions by ITU-T H.273

_TEXT_TAGS = {
    "Title": ExifTags.Base.ImageDescription,
    "Description": ExifTags.Base.ImageDescription,
    "Author": ExifTags.Base.Artist,
    "Copyright": ExifTags.Base.Copyright,
    "Software": ExifTags.Base.Software,
    "prompt": ExifTags.Base.Model,
    "workflow": ExifTags.Base.Make,
}
"""EXIF tags for PNG text. `prompt` and `workflow` are where ComfyUI's own savers put them."""


@dataclass(frozen=True)
class Metadata:
    """Metadata of an image file. Every part may be empty.

    Attributes:
        exif: tags, with sub-directories as dicts.
        icc: colour profile.
        dpi: dots per inch along x and y.
        xmp: XMP packet.
        iptc: IPTC-IIM records.
        text: text of a PNG, by keyword.
        chunks: text and colour chunks of a PNG, as (type, contents). A picture of another format
            has a cICP chunk here if it names its colour space in that way.
        size: (width, height) of the upright picture.
        is_turned: whether the file stores the picture turned.
    """

    exif: Mapping[int, Any] = field(default_factory=dict[int, Any])
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    text: Mapping[str, str] = field(default_factory=dict[str, str])
    chunks: tuple[tuple[bytes, bytes], ...] = ()
    size: tuple[int, int] = (1, 1)
    is_turned: bool = False

    @property
    def has_grey_profile(self) -> bool:
        """Whether the profile is for grey pictures."""
        return self.icc is not None and self.icc[16:20] == b"GRAY"

    def strip(self) -> "Metadata":
        """Leave out all but colours and resolution."""
        chunks = tuple(chunk for chunk in self.chunks if chunk[0] in COLOUR_CHUNKS)
        return replace(self, exif={}, xmp=None, iptc=None, text={}, chunks=chunks)

    def fit(self, format: Format, size: tuple[int, int]) -> tuple["Metadata", list[str]]:
        """Metadata of an upright result.

        Args:
            format: of the result.
            size: its (width, height).

        Returns:
            The metadata with sizes corrected, without what the format can't hold; and notes about
            what was left out.
        """
        lost: list[str] = []
        fitted = replace(self, exif=self._fit_exif(format, size, lost))
        if self.xmp:
            try:
                xmp = correct_xmp(self.xmp, self.size, size, is_turned=self.is_turned)
                fitted = replace(fitted, xmp=xmp)
            except ValueError as e:
                lost.append(f"XMP ({e})")
                fitted = replace(fitted, xmp=None)
        if TEXT not in format.metadata:
            lost += _describe_colour(fitted)
            fitted = replace(fitted, chunks=(), text={})
        for part, name in (("xmp", XMP), ("iptc", IPTC), ("icc", PROFILE)):
            block: bytes | None = getattr(fitted, part)
            too_long = part != "icc" and block and len(block) > format.max_block
            if block and (too_long or name not in format.metadata):
                lost.append(name + " (too long)" * bool(too_long))
                fitted = replace(fitted, **{part: None})
        notes = [f"not kept in {format.pillow_name}: {', '.join(lost)}"] if lost else []
        return fitted, notes

    def _fit_exif(self, format: Format, size: tuple[int, int], lost: list[str]) -> dict[int, Any]:
        """EXIF tags of a result. Adds what is left out to `lost`."""
        tags = dict(self.exif)
        if EXIF not in format.metadata:
            lost += [EXIF] * bool(tags.keys() - {ORIENTATION, *RESOLUTION_TAGS})
            lost += [f"text {keyword!r}" for keyword in self.text]
            return {}
        if TEXT not in format.metadata:
            for keyword, value in self.text.items():
                with_text = _add_text(tags, keyword, value)
                if with_text is None or _exif_size(with_text) > format.max_block:
                    lost.append(f"text {keyword!r}" + (" (too long)" if with_text else ""))
                else:
                    tags = with_text
        if tags:
            tags[ORIENTATION] = 1
        if format is FORMATS["avif"]:
            tags.pop(ORIENTATION, None)  # else Pillow rewrites the tags, in ASCII
        if self.dpi and (tags or DPI not in format.metadata):
            tags |= dict(zip(RESOLUTION_TAGS, (*self.dpi, INCH), strict=True))
        if details := tags.get(ExifTags.IFD.Exif):
            sizes = dict(zip((_WIDTH, _HEIGHT), size, strict=True))
            tags[ExifTags.IFD.Exif] = details | {t: v for t, v in sizes.items() if t in details}
        if _exif_size(tags) > format.max_block:
            lost.append(f"{EXIF} (too long)")
            return {}
        return tags

    def save_options(self, format: Format) -> dict[str, Any]:
        """Arguments for Pillow's `save`. Call `fit` first."""
        options: dict[str, Any] = {"icc_profile": self.icc, "dpi": self.dpi, "xmp": self.xmp}
        if self.exif:
            options["exif"] = to_exif(self.exif).tobytes()
        if self.iptc:
            resource = b"8BIM" + struct.pack(">HHL", IPTC_RESOURCE, 0, len(self.iptc)) + self.iptc
            block = b"Photoshop 3.0\0" + resource + b"\0" * (len(resource) % 2)
            options["extra"] = b"\xff\xed" + struct.pack(">H", len(block) + 2) + block
        if TEXT in format.metadata:
            info = PngInfo()
            for kind, contents in self.chunks:
                info.add(kind, contents)
            if self.xmp:
                info.add_itxt(XMP_KEYWORD, self.xmp.decode())
            options["pnginfo"] = info
        return {key: value for key, value in options.items() if value is not None}


def to_exif(tags: Mapping[int, Any]) -> Image.Exif:
    """EXIF tags, with sub-directories as dicts, for Pillow."""
    exif = Image.Exif()
    for tag, value in tags.items():
        if isinstance(value, dict):
            exif[tag] = {t: _encode_text(v) for t, v in value.items()}
        else:
            exif[tag] = _encode_text(value)
    return exif


def _encode_text(value: Any) -> Any:
    """Pillow reads text as Latin-1, and would write it as ASCII."""
    if isinstance(value, str) and not value.isascii():
        return value.encode("latin-1")
    return value


def _exif_size(tags: Mapping[int, Any]) -> int:
    return len(to_exif(tags).tobytes())


def _add_text(tags: Mapping[int, Any], keyword: str, value: str) -> dict[int, Any] | None:
    """EXIF tags with a PNG's text among them; None if there is no free tag for it."""
    if keyword == "parameters":  # of AUTOMATIC1111's web UI, which reads it from here
        details = tags.get(ExifTags.IFD.Exif, {})
        if ExifTags.Base.UserComment in details:
            return None
        comment = b"UNICODE\0" + value.encode("utf-16-be")
        return {**tags, ExifTags.IFD.Exif: details | {ExifTags.Base.UserComment: comment}}
    tag = _TEXT_TAGS.get(keyword)
    if tag is None or tag in tags:
        return None
    content = f"{keyword}:{value}" if keyword in ("prompt", "workflow") else value
    return {**tags, tag: content.encode()}


def _describe_colour(metadata: Metadata) -> list[str]:
    """What a picture's colour chunks say that its profile does not say."""
    chunks = dict(metadata.chunks)
    if cicp := chunks.get(b"cICP"):
        kind = _HDR.get(cicp[1], f"of primaries {cicp[0]} and transfer function {cicp[1]}")
        return [f"colour space {kind} (colours look different without it)"]
    if metadata.icc or b"sRGB" in chunks:
        return []
    plain = {b"gAMA": _SRGB_GAMMA, b"cHRM": _SRGB_PRIMARIES}
    return [kind.decode() for kind, value in plain.items() if chunks.get(kind, value) != value]
