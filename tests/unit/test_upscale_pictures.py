"""Reading and writing the pixels of picture files. test_upscale_metadata.py tests metadata."""

import io
import struct
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
import pyvips
import tifffile
import torch
from PIL import ExifTags, Image, ImageCms, ImageOps
from PIL.PngImagePlugin import putchunk

from lpnsr_impl.jobs.upscale.formats import FORMATS, Format
from lpnsr_impl.jobs.upscale.picture import (
    FilePicture,
    encode_picture,
    find_loss,
    read_picture_data,
)
from lpnsr_impl.pictures.images import fill_transparent

EXAMPLE = Path(__file__).parents[2] / "workflows" / "lpnsr_example.png"
SIZE = (24, 16)
pillow_heif.register_heif_opener()


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


def encoded(picture: FilePicture, format: Format) -> bytes:
    return encode_picture(picture, format)[0]


def opened(data: bytes) -> Image.Image:
    file = Image.open(io.BytesIO(data))
    file.load()
    return file


def deep_samples(channels: int, w: int = 24, h: int = 16) -> np.ndarray:
    rng = np.random.default_rng(channels)
    return rng.integers(0, 65536, (h, w, channels), dtype=np.uint16)


def deep_file(samples: np.ndarray, suffix: str, **options: Any) -> bytes:
    """Encode 16-bit samples, [h,w,channels], with libvips."""
    space = "grey16" if samples.shape[2] < 3 else "rgb16"
    image = pyvips.Image.new_from_array(samples).copy(interpretation=space)
    return image.write_to_buffer(suffix, **options)


def with_chunk(png: bytes, kind: bytes, content: bytes) -> bytes:
    """Insert a chunk into a PNG before its pixels."""
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
    if mode != "LAB":  # Pillow can convert LAB only with a profile
        expected = np.asarray(opened(data).convert(as_mode)).reshape(16, 24, -1)
        # the colours of nearly transparent pixels are replaced by those around them
        visible = expected[..., -1] >= 32 if picture.alpha is not None else np.s_[:, :]
        np.testing.assert_array_equal(as_samples(picture)[visible], expected[visible])
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
    # Pillow cannot open 16-bit TIFFs with grey and alpha.
    source = ".png" if channels == 2 else suffix
    picture = read_picture_data(deep_file(samples, source))
    assert (picture.bits, picture.grey) == (16, channels < 3)
    if channels in (2, 4):  # colours of nearly transparent pixels are replaced when reading
        hidden = samples[..., -1] < 65536 / 8
        samples[hidden] = as_samples(picture)[hidden]
    np.testing.assert_array_equal(as_samples(picture), samples)
    data = encoded(picture, FORMATS[suffix[1:]])
    read_again = pyvips.Image.new_from_buffer(data, "").numpy().reshape(samples.shape)
    np.testing.assert_array_equal(read_again, samples)
    if suffix == ".tif":  # check with a library other than libtiff, too
        again = tifffile.imread(io.BytesIO(data)).reshape(samples.shape)
        np.testing.assert_array_equal(again, samples)


def test_what_needs_pyvips_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    picture, data = read_picture_data(saved(example(), "PNG")), deep_file(deep_samples(3), ".png")
    monkeypatch.setitem(sys.modules, "pyvips", None)
    encoded(picture, FORMATS["png"])
    for use in (lambda: encoded(picture, FORMATS["tif"]), lambda: read_picture_data(data)):
        with pytest.raises(ValueError, match=r"need the package pyvips .*pip install"):
            use()


def test_large_tiffs_have_several_strips() -> None:
    samples = np.tile(deep_samples(3), (60, 40, 1))
    picture = read_picture_data(deep_file(samples, ".png"))
    data = encoded(picture, FORMATS["tif"])
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


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.float32])
def test_numbers_without_a_known_range_are_refused(kind: type) -> None:
    out = io.BytesIO()
    tifffile.imwrite(out, deep_samples(1)[..., 0].astype(kind))
    with pytest.raises(ValueError, match="expected 8 or 16 bits"):
        read_picture_data(out.getvalue())


def test_a_channel_that_is_not_alpha_is_left_out() -> None:
    out = io.BytesIO()
    tifffile.imwrite(out, deep_samples(4), photometric="rgb", extrasamples=["unspecified"])
    assert read_picture_data(out.getvalue()).alpha is None


def test_hidden_colours_give_way_to_those_around_them() -> None:
    rgb = torch.ones(1, 3, 9, 13)
    alpha = torch.zeros(1, 1, 9, 13)
    rgb[:, :, 3:5, 4:7] = torch.tensor([1.0, 0.2, 0.1])[None, :, None, None]
    alpha[:, :, 3:5, 4:7] = 0.5
    filled = fill_transparent(rgb, alpha)
    assert torch.equal(filled[:, :, 3:5, 4:7], rgb[:, :, 3:5, 4:7])
    torch.testing.assert_close(filled, rgb[:, :, 3:4, 4:5].expand_as(rgb))


# Orientation


def with_orientation(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif.tobytes()


@pytest.mark.parametrize(
    ("kind", "orientation"),
    [*(("JPEG", n) for n in range(1, 9)), ("PNG", 6), ("TIFF", 6), ("WEBP", 6), ("AVIF", 6),
     ("HEIF", 6)],
)  # fmt: skip
def test_pictures_are_turned_upright(kind: str, orientation: int) -> None:
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100}
    data = saved(example(), kind, exif=with_orientation(orientation), **options)
    turned = example()
    turned.getexif()[ExifTags.Base.Orientation] = orientation
    expected = np.asarray(ImageOps.exif_transpose(turned), dtype=float)
    difference = as_samples(read_picture_data(data)) - expected
    assert abs(difference).mean() < (6 if kind == "HEIF" else 2)


@pytest.mark.parametrize(
    ("orientation", "turn"), [(2, np.fliplr), (5, lambda x: x.swapaxes(0, 1)), (8, np.rot90)]
)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_pictures_are_turned_upright(suffix: str, orientation: int, turn: Any) -> None:
    samples = deep_samples(3)
    if suffix == "png":
        exif = with_orientation(orientation)[6:]
        data = with_chunk(deep_file(samples, ".png", keep="none"), b"eXIf", exif)
    else:
        out = io.BytesIO()
        tags = [(274, "H", 1, orientation)]
        tifffile.imwrite(out, samples, photometric="rgb", extratags=tags)
        data = out.getvalue()
    np.testing.assert_array_equal(as_samples(read_picture_data(data)), turn(samples))


# AVIF and HEIC


def ten_bit(kind: str) -> tuple[bytes, np.ndarray]:
    """Return a 10-bit file, and its samples scaled to 16 bits."""
    levels = np.linspace(0, 1023, 64 * 64).round().astype(np.uint16).reshape(64, 64, 1)
    levels = levels.repeat(3, axis=2)
    expected = (levels / 1023 * 65535).round()
    if kind == "AVIF":
        image = pyvips.Image.new_from_array(levels << 6, interpretation="rgb16")
        return image.heifsave_buffer(bitdepth=10, compression="av1", lossless=True), expected
    out = io.BytesIO()
    pillow_heif.encode("RGB;16", (64, 64), (levels << 6).tobytes(), out, quality=-1, chroma=444)
    return out.getvalue(), expected


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_ten_bits_become_sixteen(kind: str) -> None:
    data, expected = ten_bit(kind)
    picture = read_picture_data(data)
    assert picture.bits == 16
    difference = as_samples(picture).astype(float) - expected
    assert abs(difference).max() <= (1 if kind == "AVIF" else 400), (
        "the samples differ too much (HEIC is lossy here)"
    )
    assert len(picture.rgb.unique()) > 512
    assert read_picture_data(encoded(picture, FORMATS["png"])).bits == 16


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_avif_and_heic_are_read(kind: str, mode: str) -> None:
    picture = read_picture_data(saved(example(mode), kind, quality=95))
    assert (picture.bits, picture.alpha is not None) == (8, mode == "RGBA")
    difference = as_samples(picture).astype(float) - np.asarray(example(mode))
    assert abs(difference).mean() < 8


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_avif_is_written(mode: str) -> None:
    picture = read_picture_data(saved(example(mode), "PNG"))
    again = read_picture_data(encoded(picture, FORMATS["avif"]))
    assert (again.grey, again.alpha is None) == (picture.grey, picture.alpha is None)
    assert abs(as_samples(again).astype(float) - as_samples(picture)).mean() < 4


def test_heic_without_its_package_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(example(), "HEIF")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ValueError, match=r"need the package pillow-heif .*pip install pillow-heif"):
        read_picture_data(data)


# Refused files


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_several_frames_are_refused(kind: str) -> None:
    more = [ImageOps.mirror(example()), ImageOps.flip(example())]
    data = saved(example(), kind, save_all=True, append_images=more)
    with pytest.raises(ValueError, match="3 frames or pages"):
        read_picture_data(data)


def test_a_phones_extra_pictures_are_told() -> None:
    data = saved(example(), "MPO", save_all=True, append_images=[ImageOps.mirror(example())])
    picture = read_picture_data(data)
    assert picture.notes == ("left out: 1 more pictures in the file (preview, depth, gain map)",)
    assert abs(as_samples(picture) - np.asarray(example(), dtype=float)).mean() < 10


def test_memory_is_the_only_limit_of_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(example(), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24 * 16 // 3)
    assert read_picture_data(data).size == (1, 16, 24)
    assert Image.MAX_IMAGE_PIXELS == 24 * 16 // 3, "the global limit was changed"


def test_a_decompression_bomb_is_refused_by_its_announced_size() -> None:
    data = bytearray(saved(example(), "PNG"))
    data[16:24] = struct.pack(">LL", 2**30, 2**30)
    data[29:33] = struct.pack(">L", zlib.crc32(data[12:29]))
    with pytest.raises(MemoryError, match=r"1073741824x1073741824 pixels need .* GB are free"):
        read_picture_data(bytes(data))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "HEIF"])
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
    with pytest.raises(ValueError, match="not a picture in a known format"):
        read_picture_data(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")


# Limits of file formats


def test_what_formats_cannot_hold() -> None:
    picture = read_picture_data(saved(example("RGBA"), "PNG"))
    assert find_loss(picture, FORMATS["jpg"], (16, 16)) == "transparency"
    assert find_loss(picture, FORMATS["webp"], (16, 16)) is None
    opaque = replace(picture, alpha=torch.ones(1, 1, 16, 24))
    assert find_loss(opaque, FORMATS["jpg"], (16, 16)) is None
    wide = replace(picture, rgb=torch.zeros(1, 3, 1, 4096), alpha=None)
    assert find_loss(wide, FORMATS["webp"], (4, 16384)) == "a size of 16384x4 (at most 16383)"
    assert find_loss(wide, FORMATS["jpg"], (4, 16384)) is None
