"""Metadata of results: what each format keeps, corrections, and notes about losses."""

import io
import json
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pillow_heif
import pytest
import tifffile
import torch
from PIL import ExifTags, Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from lpnsr_impl.jobs.upscale.formats import FORMATS
from lpnsr_impl.jobs.upscale.metadata import Metadata
from lpnsr_impl.jobs.upscale.picture import FilePicture, encode_picture, read_picture_data

SIZE = (24, 16)
FORMATS_WITH_EXIF = ["jpg", "png", "webp", "avif", "tif"]
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def example() -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8))


def saved(kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    example().save(out, FORMATS[kind].pillow_name, **options)
    return out.getvalue()


def png(*chunks: tuple[bytes, bytes], **options: Any) -> bytes:
    info = PngInfo()
    for chunk in chunks:
        info.add(*chunk)
    return saved("png", pnginfo=info, **options)


def enlarge(picture: FilePicture) -> FilePicture:
    """Enlarge a picture by a factor of four."""
    return replace(picture, rgb=torch.nn.functional.interpolate(picture.rgb, scale_factor=4.0))


def upscale(data: bytes, target: str, **changes: Any) -> tuple[bytes, str]:
    """Enlarge an encoded picture. Return the result in the format `target`, and the notes about
    what was not kept. `changes` replaces fields of the decoded picture."""
    picture = enlarge(replace(read_picture_data(data), **changes))
    result, notes = encode_picture(picture, FORMATS[target])
    return result, "; ".join(notes)


def opened(data: bytes) -> Image.Image:
    file = Image.open(io.BytesIO(data))
    file.load()
    return file


# EXIF, ICC profile and resolution


def camera_exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Maker"
    exif[ExifTags.Base.Artist] = "Zoë".encode()
    exif[ExifTags.Base.Orientation] = orientation
    exif[60000] = "private"
    exif[ExifTags.IFD.Exif] = {
        ExifTags.Base.DateTimeOriginal: "2020:01:01 00:00:00",
        ExifTags.Base.MakerNote: b"\x01\x02\x03\x04\x05",
        ExifTags.Base.ExifImageWidth: 24,
        ExifTags.Base.ExifImageHeight: 16,
    }
    exif[ExifTags.IFD.GPSInfo] = {1: "N", 2: (1.0, 2.0, 3.5)}
    return exif


@pytest.mark.parametrize(
    ("source", "target", "bits"),
    [
        *((source, "png", 8) for source in FORMATS_WITH_EXIF),
        *(("jpg", target, 8) for target in FORMATS_WITH_EXIF),
        *((source, target, 16) for source in ("png", "tif") for target in ("png", "tif")),
    ],
)
def test_exif_profile_and_resolution_are_kept(source: str, target: str, bits: int) -> None:
    options: dict[str, Any] = {"icc_profile": PROFILE, "exif": camera_exif(6).tobytes()}
    has_dpi = source not in ("webp", "avif")
    data = saved(source, **options, **({"dpi": (300, 300)} if has_dpi else {}))
    if bits == 16:
        data, _ = encode_picture(replace(read_picture_data(data), bits=16), FORMATS[source])
    data, notes = upscale(data, target)
    assert notes == ""
    file = opened(data)
    assert read_picture_data(data).bits == bits
    assert file.size == (64, 96)
    assert file.info["icc_profile"] == PROFILE
    if has_dpi:
        assert read_picture_data(data).metadata.dpi == pytest.approx((300, 300), abs=0.01)
    exif = Image.open(io.BytesIO(data)).getexif()
    assert exif[ExifTags.Base.Make] == "Maker"
    if source not in ("avif", "tif"):  # Pillow saves the artist as ASCII in AVIF and TIFF
        assert exif[ExifTags.Base.Artist].encode("latin-1") == "Zoë".encode()
    assert (exif.get(ExifTags.Base.Orientation, 1), exif[60000]) == (1, "private")
    details = exif.get_ifd(ExifTags.IFD.Exif)
    assert details[ExifTags.Base.DateTimeOriginal] == "2020:01:01 00:00:00"
    assert details[ExifTags.Base.MakerNote] == b"\x01\x02\x03\x04\x05"
    size = details[ExifTags.Base.ExifImageWidth], details[ExifTags.Base.ExifImageHeight]
    assert size == (64, 96)
    assert exif.get_ifd(ExifTags.IFD.GPSInfo)[2] == (1.0, 2.0, 3.5)


def test_the_old_thumbnail_goes() -> None:
    tags = camera_exif(1)
    tags.endian = "<"
    exif = tags.tobytes()
    directory = b"\x01\x00" + b"\x01\x02\x04\x00\x01\x00\x00\x00\x07\x00\x00\x00" + bytes(4)
    count = int.from_bytes(exif[14:16], "little")
    pointer = 16 + 12 * count  # the offset of the thumbnail's directory is stored here
    offset = (len(exif) - 6).to_bytes(4, "little")
    exif = exif[:pointer] + offset + exif[pointer + 4 :] + directory
    data = saved("jpg", exif=exif)
    assert opened(data).getexif().get_ifd(ExifTags.IFD.IFD1)
    assert not opened(upscale(data, "jpg")[0]).getexif().get_ifd(ExifTags.IFD.IFD1)


def test_damaged_exif_is_left_out_and_told() -> None:
    picture = read_picture_data(saved("jpg", exif=b"Exif\0\0garbage that is no TIFF"))
    assert not picture.metadata.exif
    assert any("EXIF" in note for note in picture.notes)


@pytest.mark.parametrize("target", list(FORMATS))
def test_nothing_is_invented(target: str) -> None:
    assert read_picture_data(saved("tif")).metadata.dpi is None
    data, notes = upscale(saved("png"), target)
    file = opened(data)
    pixels = {*range(256, 260), 262, 273, *range(277, 280), 284, 317, 339}
    assert set(file.getexif()) <= (pixels if target == "tif" else set())
    assert file.info.keys().isdisjoint({"icc_profile", "xmp", "exif", "parameters"})
    if target not in ("tif", "bmp"):  # Pillow reports a default resolution for TIFF and BMP
        assert "dpi" not in file.info
    assert notes == ""


# Text chunks of PNG

PROMPT, WORKFLOW = json.dumps({"3": {"seed": 7}}), json.dumps({"nodes": ["ü"]})
TEXTS = (
    (b"tEXt", b"parameters\0a cat\nSteps: 20"),
    (b"tEXt", b"prompt\0" + PROMPT.encode()),
    (b"iTXt", b"workflow\0\0\0\0\0" + WORKFLOW.encode()),
    (b"iTXt", b"Title\0\0\0de\0Titel\0" + "Kätzchen".encode()),
    (b"tEXt", b"Comment\0one"),
    (b"tEXt", b"Comment\0two"),
)


@pytest.mark.parametrize("bits", [8, 16])
def test_png_to_png_keeps_all_text(bits: int) -> None:
    data, notes = upscale(png(*TEXTS), "png", bits=bits)
    assert notes == ""
    assert all(contents in data for _, contents in TEXTS)
    assert opened(data).text == opened(png(*TEXTS)).text


@pytest.mark.parametrize("target", ["jpg", "webp", "avif", "tif"])
def test_png_text_goes_into_exif(target: str) -> None:
    data, notes = upscale(png(*TEXTS), target)
    exif = opened(data).getexif()
    comment = exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
    assert comment == b"UNICODE\0" + "a cat\nSteps: 20".encode("utf-16-be")
    # prompt and workflow are stored as by ComfyUI's SaveAnimatedWEBP
    assert exif[0x0110] == f"prompt:{PROMPT}"
    assert exif[0x010F] == f"workflow:{WORKFLOW}"
    assert exif[0x010E].encode("latin-1") == "Kätzchen".encode()
    assert "not kept" in notes
    assert "text 'Comment'" in notes
    assert "prompt" not in notes


def test_text_that_has_no_place_is_told() -> None:
    long = (b"tEXt", b"workflow\0" + b"x" * 70_000)
    data, notes = upscale(png(TEXTS[0], long), "jpg")
    assert ExifTags.Base.UserComment in opened(data).getexif().get_ifd(ExifTags.IFD.Exif)
    assert notes == "not kept in JPEG: text 'workflow' (too long)"
    assert upscale(png(long), "webp")[1] == ""
    camera = png(*TEXTS[:3], exif=camera_exif(1).tobytes())
    data, notes = upscale(camera, "webp")
    assert opened(data).getexif()[ExifTags.Base.Make] == "Maker", (
        "EXIF of the camera was overwritten"
    )
    assert notes == "not kept in WEBP: text 'workflow'"


def test_exif_that_is_too_long_for_jpeg_is_told() -> None:
    exif = Image.Exif()
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.MakerNote: bytes(70_000)}
    data, notes = upscale(png(exif=exif.tobytes()), "jpg")
    assert not opened(data).getexif()
    assert notes == "not kept in JPEG: EXIF (too long)"


# XMP and IPTC

IPTC = b"\x1c\x02\x19\x00\x08keyword1" + b"\x1c\x02\x05\x00\x05title"
XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:exif="http://ns.adobe.com/exif/1.0/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/"
 xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/"
 xmlns:GPano="http://ns.google.com/photos/1.0/panorama/"
 xmlns:mwg-rs="http://www.metadataworkinggroup.com/schemas/regions/"
 xmlns:GDepth="http://ns.google.com/photos/1.0/depthmap/"
 xmlns:Container="http://ns.google.com/photos/1.0/container/"
 xmlns:Item="http://ns.google.com/photos/1.0/container/item/"
 tiff:ImageWidth="24" tiff:Orientation="1" hdrgm:Version="1.0" GDepth:Format="RangeInverse"
 GPano:FullPanoWidthPixels="48" GPano:CroppedAreaTopPixels="3">
<exif:PixelYDimension>16</exif:PixelYDimension>
<dc:subject><rdf:Bag><rdf:li>Kätzchen</rdf:li></rdf:Bag></dc:subject>
<mwg-rs:Regions rdf:parseType="Resource"/>
<xmp:Thumbnails><rdf:Alt><rdf:li>AAAA</rdf:li></rdf:Alt></xmp:Thumbnails>
<Container:Directory><rdf:Seq><rdf:li><Container:Item Item:Semantic="GainMap"/></rdf:li></rdf:Seq>
</Container:Directory></rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""


def with_xmp(kind: str, xmp: bytes = XMP.encode()) -> bytes:
    if kind == "png":
        return png((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp))
    return saved(kind, tiffinfo={700: xmp}) if kind == "tif" else saved(kind, xmp=xmp)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        *((source, "jpg") for source in FORMATS_WITH_EXIF),
        *(("jpg", target) for target in FORMATS_WITH_EXIF),
    ],
)
def test_xmp_is_kept_and_corrected(source: str, target: str) -> None:
    data, notes = upscale(with_xmp(source), target)
    assert notes == ""
    xmp = opened(data).info["xmp"].decode()
    assert xmp.startswith("<?xpacket begin")
    assert "<rdf:li>Kätzchen</rdf:li>" in xmp
    assert 'tiff:ImageWidth="96"' in xmp
    assert "<exif:PixelYDimension>64</exif:PixelYDimension>" in xmp
    assert 'FullPanoWidthPixels="192"' in xmp
    assert 'CroppedAreaTopPixels="12"' in xmp
    assert "mwg-rs:Regions" in xmp
    for gone in ("hdrgm", "GDepth", "Container", "Semantic", "Thumbnails"):
        assert gone not in xmp


@pytest.mark.parametrize("bits", [8, 16])
def test_a_turned_picture_has_upright_xmp(bits: int) -> None:
    exif = camera_exif(6).tobytes()
    xmp = XMP.replace('Orientation="1"', 'Orientation="6"').encode()
    data, _ = upscale(saved("jpg", exif=exif, xmp=xmp), "png", bits=bits)
    xmp = opened(data).info["xmp"].decode()
    assert 'tiff:Orientation="1"' in xmp
    assert 'tiff:ImageWidth="64"' in xmp
    assert "mwg-rs" not in xmp, "regions refer to the picture before turning"
    assert data.count(b"XML:com.adobe.xmp") == 1


def test_damaged_or_long_xmp_is_told() -> None:
    data, notes = upscale(with_xmp("png", b"<x:xmpmeta>"), "png")
    assert "xmp" not in opened(data).info
    assert "not kept in PNG: XMP (damaged: " in notes
    long = XMP.replace("Kätzchen", "x" * 70_000).encode()
    assert upscale(with_xmp("png", long), "jpg")[1] == "not kept in JPEG: XMP (too long)"


def with_iptc(kind: str) -> bytes:
    picture = replace(read_picture_data(saved("png")), metadata=Metadata(iptc=IPTC))
    return encode_picture(picture, FORMATS[kind])[0]


@pytest.mark.parametrize("source", ["jpg", "tif"])
@pytest.mark.parametrize("target", ["jpg", "tif"])
def test_iptc_is_kept(source: str, target: str) -> None:
    data, notes = upscale(with_iptc(source), target)
    assert notes == ""
    file = opened(data)
    if target == "jpg":
        assert file.info["photoshop"][0x0404] == IPTC
    else:
        assert file.tag_v2[33723] == IPTC  # type: ignore[attr-defined]


def test_iptc_that_has_no_place_is_told() -> None:
    assert upscale(with_iptc("jpg"), "png")[1] == "not kept in PNG: IPTC"


@pytest.mark.filterwarnings("ignore:Metadata Warning")
def test_iptc_that_pillow_cannot_read_is_told() -> None:
    out = io.BytesIO()
    tags = [(33723, "I", 3, (1, 2, 3))]
    tifffile.imwrite(out, np.asarray(example()), photometric="rgb", extratags=tags)
    assert "IPTC" in read_picture_data(out.getvalue()).notes[0]


def test_metadata_is_stripped() -> None:
    picture = read_picture_data(png(*TEXTS, (b"gAMA", struct.pack(">L", 50000)), dpi=(72, 72)))
    full = replace(picture.metadata, xmp=XMP.encode(), iptc=IPTC, exif=camera_exif(1), icc=PROFILE)
    for kind in ("png", "jpg"):
        data, _ = encode_picture(replace(picture, metadata=full.strip()), FORMATS[kind])
        file = opened(data)
        assert file.info["icc_profile"] == PROFILE
        assert file.info.keys().isdisjoint({"exif", "xmp", "photoshop", "parameters", "Comment"})
        assert not file.getexif()


# Colour space


@pytest.mark.parametrize("bits", [8, 16])
def test_colour_chunks_of_png_are_kept(bits: int) -> None:
    gamma = struct.pack(">L", 100000)
    chunks = [(b"gAMA", gamma), (b"cICP", bytes((9, 16, 0, 1)))]
    data, notes = upscale(png(*chunks), "png", bits=bits)
    assert all(struct.pack(">L", len(c)) + kind + c in data for kind, c in chunks)
    assert notes == ""
    assert "colour space PQ" in upscale(png(*chunks), "jpg")[1]
    assert "gAMA" in upscale(png(chunks[0]), "jpg")[1]
    srgb = (b"gAMA", struct.pack(">L", 45455)), (b"sRGB", b"\0")
    assert upscale(png(*srgb), "jpg")[1] == ""


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_of_heic_is_kept_in_png_and_else_told(transfer: int, name: str) -> None:
    out = io.BytesIO()
    pillow_heif.encode(
        "RGB;16", (64, 64), bytes(64 * 64 * 6), out, quality=95, color_primaries=9,
        transfer_characteristics=transfer, matrix_coefficients=9, full_range_flag=1,
    )  # fmt: skip
    data, notes = upscale(out.getvalue(), "png")
    assert b"cICP" + bytes((9, transfer, 0, 1)) in data
    assert notes == ""
    notes = upscale(out.getvalue(), "webp")[1]
    assert "16 bits become 8" in notes
    assert f"not kept in WEBP: colour space {name}" in notes
