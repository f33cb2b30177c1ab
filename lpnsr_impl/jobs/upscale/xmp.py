"""Adapts XMP packets to results: corrects sizes, and removes references to missing data."""

from xml.dom import minidom
from xml.parsers.expat import ExpatError

_TIFF = "http://ns.adobe.com/tiff/1.0/"
_EXIF = "http://ns.adobe.com/exif/1.0/"
_XMP = "http://ns.adobe.com/xap/1.0/"
_DIMENSIONS = "http://ns.adobe.com/xap/1.0/sType/Dimensions#"
_PANORAMA = "http://ns.google.com/photos/1.0/panorama/"
_REGIONS = "http://www.metadataworkinggroup.com/schemas/regions/"

_SIZES = {
    (_TIFF, "ImageWidth"): 0,
    (_TIFF, "ImageLength"): 1,
    (_EXIF, "PixelXDimension"): 0,
    (_EXIF, "PixelYDimension"): 1,
}
"""Properties that store the picture's width (0) or height (1)."""

_LENGTHS = {
    (_DIMENSIONS, "w"): 0,
    (_DIMENSIONS, "h"): 1,
    (_PANORAMA, "FullPanoWidthPixels"): 0,
    (_PANORAMA, "CroppedAreaImageWidthPixels"): 0,
    (_PANORAMA, "CroppedAreaLeftPixels"): 0,
    (_PANORAMA, "FullPanoHeightPixels"): 1,
    (_PANORAMA, "CroppedAreaImageHeightPixels"): 1,
    (_PANORAMA, "CroppedAreaTopPixels"): 1,
}
"""Other XMP properties that store a length in pixels: {property: 0 if it is measured along the
width, 1 if along the height}."""

_EXTRAS = {
    "http://ns.adobe.com/hdr-gain-map/1.0/",
    "http://ns.adobe.com/xmp/note/",  # refers to a second XMP block
    "http://ns.apple.com/HDRGainMap/1.0/",
    "http://ns.apple.com/pixeldatainfo/1.0/",
    "http://ns.apple.com/depthData/1.0/",
    "http://ns.google.com/photos/1.0/audio/",
    "http://ns.google.com/photos/1.0/camera/",  # motion photo
    "http://ns.google.com/photos/1.0/container/",
    "http://ns.google.com/photos/1.0/container/item/",
    "http://ns.google.com/photos/1.0/depthmap/",
    "http://ns.google.com/photos/1.0/image/",
    "http://ns.google.com/photos/dd/1.0/device/",
}
"""Namespaces that describe additional data in the file: gain and depth maps, videos, sound."""


def correct_xmp(
    xmp: bytes, before: tuple[int, int], after: tuple[int, int], *, is_turned: bool
) -> bytes:
    """Adapt a picture's XMP packet to the upscaled result.

    Args:
        xmp: the packet.
        before, after: (width, height) of the upright picture and of its result.
        is_turned: whether the picture was rotated upright. If so, face regions are removed, since
            their coordinates are no longer valid.

    Raises:
        ValueError: the packet is damaged.
    """
    try:
        document = minidom.parseString(xmp.strip(b"\0 \t\r\n"))
    except (ExpatError, ValueError) as e:
        raise ValueError(f"damaged: {e}") from e
    removed = _EXTRAS | {_REGIONS} if is_turned else _EXTRAS
    for element in document.getElementsByTagName("*"):
        for attribute in list((element.attributes or {}).values()):
            declares = attribute.prefix == "xmlns" and attribute.value in removed
            if declares or attribute.namespaceURI in removed:
                element.removeAttributeNode(attribute)
            elif (value := _correct_value(attribute, attribute.value, before, after)) is not None:
                attribute.value = value
        text = element.firstChild
        if element.namespaceURI in removed or _name(element) == (_XMP, "Thumbnails"):
            if element.parentNode:
                element.parentNode.removeChild(element)
        elif isinstance(text, minidom.Text):
            value = _correct_value(element, text.data, before, after)
            text.data = text.data if value is None else value
    return "".join(node.toxml() for node in document.childNodes).encode()


def _name(node: minidom.Element | minidom.Attr) -> tuple[str, str]:
    return node.namespaceURI or "", node.localName or ""


def _correct_value(
    node: minidom.Element | minidom.Attr,
    value: str,
    before: tuple[int, int],
    after: tuple[int, int],
) -> str | None:
    """Compute the corrected value of a property; None if it does not change."""
    name = _name(node)
    if name == (_TIFF, "Orientation"):
        return "1"
    if name in _SIZES:
        return str(after[_SIZES[name]])
    if name in _LENGTHS:
        axis = _LENGTHS[name]
        try:
            return str(round(float(value) * after[axis] / before[axis]))
        except (ValueError, OverflowError):
            return None
    return None
