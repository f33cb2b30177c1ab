"""Reading and writing pictures with all that surrounds their pixels."""

import io
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import tifffile
import torch
from PIL import ExifTags, Image, ImageCms, ImageOps
from PIL.PngImagePlugin import putchunk

from lpnsr_impl.jobs.upscale.formats import FORMATS, result_name
from lpnsr_impl.jobs.upscale.metadata import Metadata
from lpnsr_impl.jobs.upscale.picture import (
    FilePicture,
    encode_picture,
    read_picture_data,
    what_is_lost,
)
from lpnsr_impl.pictures.images import fill_transparent

EXAMPLE = Path(__file__).parents[2] / "workflows" / "lpnsr_example.png"
SIZE = (24, 16)


def example(mode: str = "RGB") -> Image.Image:
    with Image.open(EXAMPLE) as file:
        rgb = file.convert("RGB").crop((30, 30, 30 + SIZE[0], 30 + SIZE[1]))
    if mode.endswith("A"):
        rgb.putalpha(Image.linear_gradient("L").resize(SIZE))
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        converted = ImageCms.profileToProfile(rgb, *profiles, outputMode="LAB")
        assert converted is not None
        return converted
    if mode == "I;16":
        return Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257 + 3)
    return rgb.convert(mode)


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def opened(data: bytes) -> Image.Image:
    file = Image.open(io.BytesIO(data))
    file.load()
    return file


def deep_samples(channels: int, w: int = 24, h: int = 16) -> np.ndarray:
    rng = np.random.default_rng(channels)
    return rng.integers(0, 65536, (h, w, channels), dtype=np.uint16)


def deep_file(samples: np.ndarray, suffix: str, **options: Any) -> bytes:
    """Written by libvips."""
    space = "grey16" if samples.shape[2] < 3 else "rgb16"
    image = pyvips.Image.new_from_array(samples).copy(interpretation=space)
    return image.write_to_buffer(suffix, **options)


def with_chunk(png: bytes, kind: bytes, content: bytes) -> bytes:
    """A PNG with one more chunk before its pixels."""
    chunk = io.BytesIO()
    putchunk(chunk, kind, content)
    at = png.index(b"IDAT") - 4
    return png[:at] + chunk.getvalue() + png[at:]


def as_samples(picture: FilePicture) -> np.ndarray:
    planes = [picture.rgb[:, :1] if picture.grey else picture.rgb]
    planes += [picture.alpha] if picture.alpha is not None else []
    x = torch.cat(planes, dim=1)[0].movedim(0, -1)
    return (x * (2**picture.bits - 1)).round().numpy().astype(np.uint16)


# Pixels


@pytest.mark.parametrize(
    ("kind", "mode", "as_mode"),
    [
        *(("PNG", m, n) for m, n in (("1", "L"), ("L", "L"), ("LA", "LA"), ("P", "RGB"))),
        *(("PNG", m, m) for m in ("RGB", "RGBA")),
        *(("TIFF", m, n) for m, n in (("1", "L"), ("P", "RGB"), ("PA", "RGBA"), ("RGBX", "RGB"))),
        *(("TIFF", m, m) for m in ("L", "LA", "RGB", "RGBA")),
        *(("TIFF", m, "RGB") for m in ("CMYK", "YCbCr", "LAB")),
        *(("JPEG", m, n) for m, n in (("L", "L"), ("RGB", "RGB"), ("CMYK", "RGB"))),
        *(("WEBP", m, m) for m in ("RGB", "RGBA")),
        *(("BMP", m, n) for m, n in (("1", "L"), ("L", "L"), ("P", "RGB"), ("RGB", "RGB"))),
        *(("GIF", m, n) for m, n in (("1", "L"), ("P", "RGB"))),
    ],
)
def test_every_mode_is_read(kind: str, mode: str, as_mode: str) -> None:
    data = saved(example(mode), kind)
    picture = read_picture_data(data)
    assert picture.rgb.shape == (1, 3, 16, 24)
    assert (picture.grey, picture.bits) == (as_mode.startswith("L"), 8)
    assert (picture.alpha is not None) == as_mode.endswith("A")
    if mode != "LAB":  # which Pillow converts by a profile alone
        expected = np.asarray(opened(data).convert(as_mode)).reshape(16, 24, -1)
        np.testing.assert_array_equal(as_samples(picture), expected)
    else:
        difference = np.asarray(example(), dtype=float) - as_samples(picture)
        assert abs(difference).max() < 8


def test_a_transparent_palette_colour_is_alpha() -> None:
    clear = example("P").getpixel((0, 0))
    picture = read_picture_data(saved(example("P"), "PNG", transparency=clear))
    assert picture.alpha is not None
    assert picture.alpha[0, 0, 0, 0] == 0
    assert picture.alpha.max() == 1


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_are_read_and_written_as_they_are(suffix: str, channels: int) -> None:
    samples = deep_samples(channels)
    # Pillow opens no TIFF of grey and alpha with 16 bits.
    source = ".png" if channels == 2 else suffix
    picture = read_picture_data(deep_file(samples, source))
    assert (picture.bits, picture.grey) == (16, channels < 3)
    np.testing.assert_array_equal(as_samples(picture), samples)
    data = encode_picture(picture, FORMATS[suffix[1:]])
    read_again = pyvips.Image.new_from_buffer(data, "").numpy().reshape(samples.shape)
    np.testing.assert_array_equal(read_again, samples)
    if suffix == ".tif":  # another reader than libtiff
        again = tifffile.imread(io.BytesIO(data)).reshape(samples.shape)
        np.testing.assert_array_equal(again, samples)


def test_what_needs_pyvips_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    picture, data = read_picture_data(saved(example(), "PNG")), deep_file(deep_samples(3), ".png")
    monkeypatch.setitem(sys.modules, "pyvips", None)
    encode_picture(picture, FORMATS["png"])
    for use in (lambda: encode_picture(picture, FORMATS["tif"]), lambda: read_picture_data(data)):
        with pytest.raises(ValueError, match=r"need the package pyvips .*pip install"):
            use()


def test_large_tiffs_have_several_strips() -> None:
    samples = np.tile(deep_samples(3), (60, 40, 1))
    picture = read_picture_data(deep_file(samples, ".png"))
    data = encode_picture(picture, FORMATS["tif"])
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        assert len(file.pages.first.dataoffsets) > 3
        np.testing.assert_array_equal(file.asarray(), samples)
    np.testing.assert_array_equal(as_samples(read_picture_data(data)), samples)


@pytest.mark.parametrize(
    "options",
    [
        {"planarconfig": "separate", "photometric": "rgb"},
        {"byteorder": ">", "photometric": "rgb"},
        {"tile": (16, 16), "photometric": "rgb"},
    ],
    ids=["planar", "big-endian", "tiles"],
)
def test_sixteen_bit_tiffs_of_any_layout(options: dict[str, Any]) -> None:
    samples = deep_samples(3)
    stored = samples.transpose(2, 0, 1) if "planarconfig" in options else samples
    out = io.BytesIO()
    tifffile.imwrite(out, stored, **options)
    np.testing.assert_array_equal(as_samples(read_picture_data(out.getvalue())), samples)


def test_sixteen_bit_lzw_and_white_is_zero() -> None:
    samples = deep_samples(3)
    lzw = read_picture_data(deep_file(samples, ".tif", compression="lzw"))
    np.testing.assert_array_equal(as_samples(lzw), samples)
    out = io.BytesIO()
    tifffile.imwrite(out, samples[..., 0], photometric="miniswhite")
    np.testing.assert_array_equal(
        as_samples(read_picture_data(out.getvalue()))[..., 0], 65535 - samples[..., 0]
    )


def test_colours_that_are_multiplied_by_alpha_are_divided() -> None:
    samples = deep_samples(4)
    samples[..., 3] = np.maximum(samples[..., 3], 20000)
    alpha = samples[..., 3:] / 65535
    stored = np.concatenate([samples[..., :3] * alpha, samples[..., 3:]], -1).round()
    out = io.BytesIO()
    tifffile.imwrite(out, stored.astype(np.uint16), photometric="rgb", extrasamples=["assocalpha"])
    read = as_samples(read_picture_data(out.getvalue()))
    np.testing.assert_allclose(read, samples, atol=3)


def test_the_transparent_colour_of_a_sixteen_bit_png() -> None:
    plain = deep_file(deep_samples(3), ".png")
    colour = deep_samples(3)[5, 7].astype(">u2").tobytes()
    picture = read_picture_data(with_chunk(plain, b"tRNS", colour))
    assert picture.alpha is not None
    assert picture.alpha[0, 0, 5, 7] == 0
    assert (picture.alpha == 0).sum() == 1


@pytest.mark.parametrize("mode", ["I", "F"])
def test_numbers_without_a_known_range_are_refused(mode: str) -> None:
    with pytest.raises(ValueError, match="expected 8 or 16 bits"):
        read_picture_data(saved(example("L").convert(mode), "TIFF"))


def test_hidden_colours_give_way_to_those_around_them() -> None:
    rgb = torch.ones(1, 3, 9, 13)
    alpha = torch.zeros(1, 1, 9, 13)
    rgb[:, :, 3:5, 4:7] = torch.tensor([1.0, 0.2, 0.1])[None, :, None, None]
    alpha[:, :, 3:5, 4:7] = 0.5
    filled = fill_transparent(rgb, alpha)
    assert torch.equal(filled[:, :, 3:5, 4:7], rgb[:, :, 3:5, 4:7])
    torch.testing.assert_close(filled, rgb[:, :, 3:4, 4:5].expand_as(rgb))


# What surrounds them

EXIF_FORMATS = ["jpg", "png", "webp", "tif"]


def camera_exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Maker"
    exif[ExifTags.Base.Copyright] = "me"
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


def enlarged(picture: FilePicture) -> FilePicture:
    """Four times as large."""
    double = {"scale_factor": 4.0, "mode": "nearest"}
    alpha = picture.alpha
    return replace(
        picture,
        rgb=torch.nn.functional.interpolate(picture.rgb, **double),
        alpha=None if alpha is None else torch.nn.functional.interpolate(alpha, **double),
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_pictures_are_turned_upright(kind: str, orientation: int) -> None:
    options = {"quality": 100} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    data = saved(example(), kind, exif=camera_exif(orientation).tobytes(), **options)
    turned = example()
    turned.getexif()[ExifTags.Base.Orientation] = orientation
    expected = np.asarray(ImageOps.exif_transpose(turned), dtype=float)
    difference = as_samples(read_picture_data(data)) - expected
    assert abs(difference).mean() < 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_pictures_are_turned_upright(suffix: str, orientation: int) -> None:
    if suffix == "png":
        picture = read_picture_data(deep_file(deep_samples(3), ".png"))
        plain = encode_picture(replace(picture, metadata=Metadata()), FORMATS["png"])
        data = with_chunk(plain, b"eXIf", camera_exif(orientation).tobytes()[6:])
    else:
        out = io.BytesIO()
        tags = [(274, "H", 1, orientation)]
        tifffile.imwrite(out, deep_samples(3), photometric="rgb", extratags=tags)
        data = out.getvalue()
    steps = {2: [np.fliplr], 3: [np.rot90, np.rot90], 4: [np.flipud], 5: [np.rot90, np.flipud],
             6: [np.rot90] * 3, 7: [np.rot90, np.fliplr], 8: [np.rot90]}  # fmt: skip
    expected = deep_samples(3)
    for step in steps.get(orientation, []):
        expected = step(expected)
    np.testing.assert_array_equal(as_samples(read_picture_data(data)), expected)


@pytest.mark.parametrize(
    ("source", "target", "bits"),
    [
        *((source, target, 8) for source in EXIF_FORMATS for target in EXIF_FORMATS),
        *((source, target, 16) for source in ("png", "tif") for target in ("png", "tif")),
    ],
)
def test_exif_profile_and_resolution_are_kept(source: str, target: str, bits: int) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    options: dict[str, Any] = {"icc_profile": profile, "exif": camera_exif(6).tobytes()}
    if source != "webp":
        options["dpi"] = (300, 300)
    picture = read_picture_data(saved(example(), FORMATS[source].pillow_name, **options))
    if bits == 16:
        picture = read_picture_data(encode_picture(replace(picture, bits=16), FORMATS[source]))
    data = encode_picture(enlarged(picture), FORMATS[target])
    file = opened(data)
    assert read_picture_data(data).bits == bits
    assert file.size == (64, 96)
    assert file.info["icc_profile"] == profile
    if source != "webp":
        dpi = read_picture_data(data).metadata.dpi
        assert dpi == pytest.approx((300, 300), abs=0.01)
    exif = Image.open(io.BytesIO(data)).getexif()
    assert (exif[ExifTags.Base.Make], exif[ExifTags.Base.Copyright]) == ("Maker", "me")
    assert (exif[ExifTags.Base.Orientation], exif[60000]) == (1, "private")
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
    pointer = 16 + 12 * count  # of the next directory, which is the thumbnail's
    offset = (len(exif) - 6).to_bytes(4, "little")
    exif = exif[:pointer] + offset + exif[pointer + 4 :] + directory
    data = saved(example(), "JPEG", exif=exif)
    assert opened(data).getexif().get_ifd(ExifTags.IFD.IFD1)
    result = encode_picture(read_picture_data(data), FORMATS["jpg"])
    assert not opened(result).getexif().get_ifd(ExifTags.IFD.IFD1)


def test_damaged_exif_is_left_out_and_told() -> None:
    picture = read_picture_data(saved(example(), "JPEG", exif=b"Exif\0\0garbage that is no TIFF"))
    assert not picture.metadata.exif
    assert any("EXIF" in note for note in picture.notes)


@pytest.mark.parametrize("target", ["jpg", "png", "webp", "tif", "bmp"])
def test_what_was_not_there_is_not_made_up(target: str) -> None:
    file = opened(encode_picture(read_picture_data(saved(example(), "PNG")), FORMATS[target]))
    own = (
        {*range(256, 260), 262, 273, *range(277, 280), 284, 317, 339} if target == "tif" else set()
    )
    assert set(file.getexif()) <= own
    assert "icc_profile" not in file.info
    if target not in ("tif", "bmp"):  # Pillow reports its default for TIFF
        assert "dpi" not in file.info


def test_a_damaged_profile_of_cmyk_is_an_error() -> None:
    data = saved(example("CMYK"), "JPEG", icc_profile=b"no profile" * 20)
    with pytest.raises((ValueError, OSError), match="profile"):
        read_picture_data(data)


# What is refused


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_several_frames_are_refused(kind: str) -> None:
    more = [ImageOps.mirror(example()), ImageOps.flip(example())]
    data = saved(example(), kind, save_all=True, append_images=more)
    with pytest.raises(ValueError, match="3 frames or pages"):
        read_picture_data(data)


def test_a_phones_extra_pictures_are_told() -> None:
    data = saved(example(), "MPO", save_all=True, append_images=[ImageOps.mirror(example())])
    picture = read_picture_data(data)
    assert "1 more pictures in it" in picture.notes[0]
    assert abs(as_samples(picture) - np.asarray(example(), dtype=float)).mean() < 10


@pytest.mark.parametrize("times", [1.5, 3])
def test_pillows_limit_of_pixels_is_an_error(times: float, monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(example(), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(24 * 16 / times))
    with pytest.raises((Image.DecompressionBombWarning, Image.DecompressionBombError)):
        read_picture_data(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_files_that_are_cut_short_are_refused(kind: str) -> None:
    data = saved(example(), kind)
    with pytest.raises((OSError, ValueError)):
        read_picture_data(data[: len(data) * 2 // 3])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_files_that_are_cut_short_are_refused(suffix: str) -> None:
    data = deep_file(deep_samples(3), suffix)
    with pytest.raises((OSError, ValueError)):
        read_picture_data(data[: len(data) * 2 // 3])


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="no picture of a known kind"):
        read_picture_data(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")


# Formats


def test_results_keep_their_suffix_where_it_fits() -> None:
    same = {"a.JPG": "a.JPG", "a.jpeg": "a.jpeg", "b/a.gif": "b/a.png", "a.tiff": "a.tiff"}
    assert {name: result_name(name, "same") for name in same} == same
    assert result_name("x/a.jpeg", "jpg") == "x/a.jpeg"
    assert result_name("x/a.b.png", "jpg") == "x/a.b.jpg"


def test_what_formats_cannot_hold() -> None:
    picture = read_picture_data(saved(example("RGBA"), "PNG"))
    assert what_is_lost(picture, FORMATS["jpg"], (16, 16)) == "transparency"
    assert what_is_lost(picture, FORMATS["webp"], (16, 16)) is None
    opaque = replace(picture, alpha=torch.ones(1, 1, 16, 24))
    assert what_is_lost(opaque, FORMATS["jpg"], (16, 16)) is None
    wide = replace(picture, rgb=torch.zeros(1, 3, 1, 4096), alpha=None)
    assert what_is_lost(wide, FORMATS["webp"], (4, 16384)) == "a size of 16384x4 (at most 16383)"
    assert what_is_lost(wide, FORMATS["jpg"], (4, 16384)) is None
