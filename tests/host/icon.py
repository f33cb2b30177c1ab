"""Make the registry's icon and banner from the example picture: `python -m tests.host.icon`.

The registry asks for a square icon of at most 400x400 and a banner of 21:9.
"""

import sys

from PIL import Image

from .install import cache_dir
from .pictures import halves, shown
from .server import PACK, running

WORKFLOW = "LPNSR chain with another upscaler"  # shows the example picture and it enlarged x16
ICON = (400, 400)
BANNER = (1260, 540)
FLOWER = (0.56, 0.44)
"""The middle of the icon, as a share of width and height."""


def main() -> int:
    """Run the workflow once and write docs/icon.jpg and docs/banner.jpg."""
    with running(cache_dir() / "base") as server:
        lr, result = shown(server, WORKFLOW)
    docs = PACK / "docs"
    icon(lr, result).save(docs / "icon.jpg", quality=92)
    banner(lr, result).save(docs / "banner.jpg", quality=90)
    return 0


def icon(lr: Image.Image, result: Image.Image) -> Image.Image:
    """A square around the flower; its left half is the LR picture."""
    side = result.height * 2 // 5
    x, y = (round(share * size) for share, size in zip(FLOWER, result.size, strict=True))
    box = (x - side // 2, y - side // 2, x + side // 2, y + side // 2)
    pixels = lr.resize(result.size, Image.Resampling.NEAREST)
    return halves(pixels.crop(box), result.crop(box)).resize(ICON, Image.Resampling.LANCZOS)


def banner(lr: Image.Image, result: Image.Image) -> Image.Image:
    """The whole width at 21:9; its left half is the LR picture."""
    height = result.width * BANNER[1] // BANNER[0]
    top = (result.height - height) // 2
    picture = halves(lr, result).crop((0, top, result.width, top + height))
    return picture.resize(BANNER, Image.Resampling.LANCZOS)


if __name__ == "__main__":
    sys.exit(main())
