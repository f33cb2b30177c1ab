"""Metadata of a file: EXIF, XMP, IPTC, PNG text, colour profile and resolution."""

import io
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo, PngStream
from PIL.TiffImagePlugin import TiffImageFile

from .formats import DPI, EXIF, FORMATS, IPTC, PROFILE, TEXT, XMP, Format
from .xmp import correct_xmp

_ORIENTATION = 274
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = RESOLUTION_TAGS = 282, 283, 296
_WIDTH, _HEIGHT = 40962, 40963  # of the Exif IFD
_INCH, _CENTIMETRE = 2, 3
XMP_TAG, IPTC_TAG, PROFILE_TAG = 700, 33723, 34675
_IPTC_RESOURCE = 0x0404  # of a JPEG's Photoshop block

_STRUCTURE = frozenset(
    {
        *range(254, 260), 262, 263, 264, 265, 266, 273, *range(277, 282), 284, *range(288, 294),
        301, 317, *range(320, 348), *range(512, 522), *range(529, 533), XMP_TAG, IPTC_TAG, 34377,
        PROFILE_TAG, 37724,
    }
)  # fmt: skip
"""TIFF tags that describe how the file stores its pixels or its thumbnail, and blocks that are kept
apart (colour profile, XMP, IPTC) or not at all (Photoshop)."""

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

_TEXT_CHUNKS = {b"tEXt", b"zTXt", b"iTXt"}
_COLOUR_CHUNKS = {b"cICP", b"gAMA", b"cHRM", b"sRGB"}
_XMP_KEYWORD = "XML:com.adobe.xmp"
_REWRITTEN = {
    _XMP_KEYWORD,
    "Raw profile type exif",
    "Raw profile type APP1",
    "Raw profile type xmp",
}
"""Keywords of text chunks that hold EXIF or XMP."""

_SRGB_GAMMA = struct.pack(">L", 45455)
_SRGB_PRIMARIES = struct.pack(">8L", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
_HDR = {16: "PQ", 18: "HLG"}
_SRGB_LIKE = {(p, t) for p in (1, 2) for t in (1, 2, 6, 13)}
"""(primaries, transfer function) of BT.709 and sRGB, or unspecified, by ITU-T H.273."""

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
    """What a file holds beside its pixels. Every part may be empty.

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
        chunks = tuple(chunk for chunk in self.chunks if chunk[0] in _COLOUR_CHUNKS)
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
            lost += [EXIF] * bool(tags.keys() - {_ORIENTATION, *RESOLUTION_TAGS})
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
            tags[_ORIENTATION] = 1
        if format is FORMATS["avif"]:
            tags.pop(_ORIENTATION, None)  # else Pillow rewrites the tags, in ASCII
        if self.dpi and (tags or DPI not in format.metadata):
            tags |= dict(zip(RESOLUTION_TAGS, (*self.dpi, _INCH), strict=True))
        if details := tags.get(ExifTags.IFD.Exif):
            sizes = dict(zip((_WIDTH, _HEIGHT), size, strict=True))
            tags[ExifTags.IFD.Exif] = details | {t: v for t, v in sizes.items() if t in details}
        if _exif_size(tags) > format.max_block:
            lost.append(f"{EXIF} (too long)")
            return {}
        return tags

    def to_exif(self) -> Image.Exif:
        """The EXIF tags, for Pillow."""
        return _to_exif(self.exif)

    def save_options(self, format: Format) -> dict[str, Any]:
        """Arguments for Pillow's `save`. Call `fit` first."""
        options: dict[str, Any] = {"icc_profile": self.icc, "dpi": self.dpi, "xmp": self.xmp}
        if self.exif:
            options["exif"] = self.to_exif().tobytes()
        if self.iptc:
            resource = b"8BIM" + struct.pack(">HHL", _IPTC_RESOURCE, 0, len(self.iptc)) + self.iptc
            block = b"Photoshop 3.0\0" + resource + b"\0" * (len(resource) % 2)
            options["extra"] = b"\xff\xed" + struct.pack(">H", len(block) + 2) + block
        if TEXT in format.metadata:
            info = PngInfo()
            for kind, contents in self.chunks:
                info.add(kind, contents)
            if self.xmp:
                info.add_itxt(_XMP_KEYWORD, self.xmp.decode())
            options["pnginfo"] = info
        return {key: value for key, value in options.items() if value is not None}


def read_metadata(file: Image.Image, data: bytes) -> tuple[Metadata, list[str]]:
    """Metadata of an opened file, before its pixels are loaded.

    Args:
        file: opened by Pillow.
        data: contents of the file.

    Returns:
        The metadata, and a note for each part that is damaged.
    """
    notes: list[str] = []
    exif: dict[int, Any] = {}
    try:
        exif = _copy_tags(file.getexif())
        _to_exif(exif).tobytes()
    except _DAMAGED as e:
        exif = {}
        notes.append(f"its EXIF data is damaged and left out ({e})")
    if not exif and not notes and file.info.get("exif") and not len(file.getexif()):
        notes.append("its EXIF data is damaged and left out")
    iptc = _read_iptc(file)
    if iptc is None and isinstance(file, TiffImageFile) and IPTC_TAG in file.tag_v2:
        notes.append("its IPTC data is stored as numbers, which can't be read, and left out")
    chunks, text = _read_chunks(data) if file.format == "PNG" else (_read_nclx(file, data), {})
    turn = _orientation(file)
    width, height = file.size
    metadata = Metadata(
        exif,
        icc=file.info.get("icc_profile") or None,
        dpi=_dpi(file, exif),
        xmp=_as_bytes(file.info.get("xmp")),
        iptc=iptc,
        text=text,
        chunks=chunks,
        size=(height, width) if turn >= 5 else (width, height),
        is_turned=file.info.get("original_orientation", turn) not in (None, 1),
    )
    return metadata, notes


def turn_upright(file: Image.Image) -> Image.Image:
    """The picture, turned as EXIF says.

    Unlike Pillow's `exif_transpose` it also works beside damaged tags.
    """
    turn = _TURNS.get(_orientation(file))
    file.load()
    # Pillow turns a TIFF while it loads it.
    return file if turn is None or file.format == "TIFF" else file.transpose(turn)


def _orientation(file: Image.Image) -> int:
    try:
        turn = file.getexif().get(_ORIENTATION, 1)
    except _DAMAGED:
        return 1
    return turn if turn in _TURNS else 1


def _to_exif(tags: Mapping[int, Any]) -> Image.Exif:
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
    return len(_to_exif(tags).tobytes())


def _copy_tags(exif: Image.Exif) -> dict[int, Any]:
    """Tags that hold for other files, too; the thumbnail's directory is not among them."""
    ifds = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
    tags = {t: v for t, v in exif.items() if t not in _STRUCTURE and t not in ifds}
    for ifd in ifds:
        if values := dict(exif.get_ifd(ifd)):
            values.pop(ExifTags.IFD.Interop, None)  # an offset in the old file
            tags[ifd] = values
    return tags


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


def _read_chunks(data: bytes) -> tuple[tuple[tuple[bytes, bytes], ...], dict[str, str]]:
    """Text and colour chunks of a PNG, and its text by keyword."""
    chunks: list[tuple[bytes, bytes]] = []
    text: dict[str, str] = {}
    file = io.BytesIO(data)
    file.seek(8)
    stream = PngStream(file)
    try:
        while (chunk := stream.read())[0] != b"IEND":
            kind, start, length = chunk
            keyword = ""
            if kind in _TEXT_CHUNKS:
                contents = stream.call(kind, start, length)
                keyword = contents.split(b"\0", 1)[0].decode("latin-1")
                if keyword in stream.im_text and keyword not in _REWRITTEN:
                    text.setdefault(keyword, str(stream.im_text[keyword]))
            if kind in _TEXT_CHUNKS | _COLOUR_CHUNKS and keyword not in _REWRITTEN:
                chunks.append((kind, data[start : start + length]))
            file.seek(start + length + 4)
    except (struct.error, SyntaxError):  # it is cut short, which shows when its pixels are read
        pass
    return tuple(chunks), text


def _read_nclx(file: Image.Image, data: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Colour space that an AVIF or HEIC file names by numbers, as a PNG's cICP chunk."""
    start = data.find(b"colrnclx")
    if file.format not in ("AVIF", "HEIF") or start < 0 or file.info.get("icc_profile"):
        return ()
    primaries, transfer = struct.unpack(">HH", data[start + 8 : start + 12])
    if (primaries, transfer) in _SRGB_LIKE or max(primaries, transfer) > 255:
        return ()
    return ((b"cICP", bytes((primaries, transfer, 0, 1))),)


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


def _read_iptc(file: Image.Image) -> bytes | None:
    if isinstance(file, TiffImageFile):
        return _as_bytes(file.tag_v2.get(IPTC_TAG))
    return _as_bytes(file.info.get("photoshop", {}).get(_IPTC_RESOURCE))


def _as_bytes(value: Any) -> bytes | None:
    if isinstance(value, tuple) and len(value) == 1:
        (value,) = value
    return value.encode() if isinstance(value, str) else value if isinstance(value, bytes) else None


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
