"""Adapts an image's metadata to its upscaled result: EXIF, XMP, IPTC, PNG text, colour profile and
resolution."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from .formats import DPI, EXIF, FORMATS, IPTC, PROFILE, TEXT, XMP, Format
from .xmp import correct_xmp

ORIENTATION = 274
RESOLUTION_TAGS = 282, 283, 296  # x resolution, y resolution, unit
INCH, CENTIMETRE = 2, 3  # values of the resolution unit
_WIDTH, _HEIGHT = 40962, 40963  # tags in the Exif IFD
XMP_TAG, IPTC_TAG, PROFILE_TAG = 700, 33723, 34675
IPTC_RESOURCE = 0x0404  # ID of the IPTC data in the Photoshop block of a JPEG file

TEXT_CHUNKS = {b"tEXt", b"zTXt", b"iTXt"}
COLOUR_CHUNKS = {b"cICP", b"gAMA", b"cHRM", b"sRGB"}
XMP_KEYWORD = "XML:com.adobe.xmp"
_SRGB_GAMMA = struct.pack(">L", 45455)
_SRGB_PRIMARIES = struct.pack(">8L", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
_HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics of ITU-T H.273

_TEXT_TAGS = {
    "Title": ExifTags.Base.ImageDescription,
    "Description": ExifTags.Base.ImageDescription,
    "Author": ExifTags.Base.Artist,
    "Copyright": ExifTags.Base.Copyright,
    "Software": ExifTags.Base.Software,
    "prompt": ExifTags.Base.Model,
    "workflow": ExifTags.Base.Make,
}
"""EXIF tags that store PNG text in other formats, by keyword of the text. `prompt` and `workflow`
use the same tags as ComfyUI's WebP files."""


@dataclass(frozen=True)
class Metadata:
    """Metadata of an image file. Every part may be empty.

    Attributes:
        exif: EXIF tags, with sub-IFDs as dicts.
        icc: ICC colour profile.
        dpi: dots per inch along x and y.
        xmp: XMP packet.
        iptc: IPTC-IIM records.
        text: PNG text by keyword.
        chunks: text and colour chunks of a PNG, as (type, contents). For AVIF and HEIC files whose
            colour space is defined by code points (nclx), an equivalent cICP chunk.
        size: (width, height) of the picture after its EXIF orientation is applied.
        is_turned: whether the file stores the picture rotated or flipped.
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
        """Whether the colour profile is for grey pictures."""
        return self.icc is not None and self.icc[16:20] == b"GRAY"

    def strip(self) -> "Metadata":
        """Return a copy with only the colour profile, colour chunks and resolution."""
        chunks = tuple(chunk for chunk in self.chunks if chunk[0] in COLOUR_CHUNKS)
        return replace(self, exif={}, xmp=None, iptc=None, text={}, chunks=chunks)

    def fit(self, format: Format, size: tuple[int, int]) -> tuple["Metadata", list[str]]:
        """Adapt the metadata to the result, which is stored upright.

        Args:
            format: format of the result.
            size: (width, height) of the result.

        Returns:
            The metadata with corrected sizes and only the parts that the format can store; and a
            note that names the parts left out, if any.
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
        """Return the EXIF tags of a result, and append the names of parts that the format can't
        store to `lost`."""
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
            tags.pop(ORIENTATION, None)  # with this tag, Pillow rewrites all tags as ASCII
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
        """Return keyword arguments for Pillow's `save`. Call it on the result of `fit`."""
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
    """Convert EXIF tags to Pillow's `Exif`. Nested dicts become sub-IFDs."""
    exif = Image.Exif()
    for tag, value in tags.items():
        if isinstance(value, dict):
            exif[tag] = {t: _encode_text(v) for t, v in value.items()}
        else:
            exif[tag] = _encode_text(value)
    return exif


def _encode_text(value: Any) -> Any:
    """Encode text as Latin-1: Pillow decodes EXIF text as Latin-1, but encodes it as ASCII."""
    if isinstance(value, str) and not value.isascii():
        return value.encode("latin-1")
    return value


def _exif_size(tags: Mapping[int, Any]) -> int:
    return len(to_exif(tags).tobytes())


def _add_text(tags: Mapping[int, Any], keyword: str, value: str) -> dict[int, Any] | None:
    """Return a copy of the EXIF tags with an additional tag for the text of a PNG chunk. None if
    there is no tag for this keyword, or the tag is already in use."""
    if keyword == "parameters":  # AUTOMATIC1111's web UI reads this text from UserComment
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
    """Describe the colour information that is lost in formats without PNG colour chunks."""
    chunks = dict(metadata.chunks)
    if cicp := chunks.get(b"cICP"):
        kind = _HDR.get(cicp[1], f"of primaries {cicp[0]} and transfer function {cicp[1]}")
        return [f"colour space {kind} (colours look different without it)"]
    if metadata.icc or b"sRGB" in chunks:
        return []
    srgb = {b"gAMA": _SRGB_GAMMA, b"cHRM": _SRGB_PRIMARIES}
    return [kind.decode() for kind, value in srgb.items() if chunks.get(kind, value) != value]
