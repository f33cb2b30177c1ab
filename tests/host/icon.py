"""Make the registry's icon and banner from js/docs/comparison.jpg: `python -m tests.host.icon`.

The registry asks for a square icon of at most 400x400 and a banner of 21:9. Both show the LR
picture on the left and the result on the right. Run `python -m tests.host.pictures` first if the
comparison is out of date.
"""

import sys

from PIL import Image

from .pictures import PICTURE, halves
from .server import PACK

ICON = (216, 48, 616, 448)
"""Crop of the upscaled picture for the icon: left, top, right, bottom."""
BANNER = (0, 87, 749, 408)


def main() -> int:
    """Write docs/icon.jpg and docs/banner.jpg."""
    comparison = Image.open(PACK / "js" / "docs" / "comparison.jpg")
    lr = Image.open(PICTURE).convert("RGB")
    width, height = 4 * lr.width, 4 * lr.height
    right, bottom = comparison.size  # the result is its right part
    result = comparison.crop((right - width, bottom - height, right, bottom))
    pixels = lr.resize(result.size, Image.Resampling.NEAREST)
    for name, box in (("icon", ICON), ("banner", BANNER)):
        picture = halves(pixels.crop(box), result.crop(box))
        picture.save(PACK / "docs" / f"{name}.jpg", quality=92)
    return 0


if __name__ == "__main__":
    sys.exit(main())
