"""Make two example files for the templates: a clip that pans over the example picture, and a
seamless texture.

Usage: `python -m tests.host.examples`
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

from .server import PACK

WORKFLOWS = PACK / "workflows"
PICTURE = WORKFLOWS / "lpnsr_example.png"
CLIP = WORKFLOWS / "lpnsr_example.mp4"
TEXTURE = WORKFLOWS / "lpnsr_texture.png"
WALL = PACK / "tests" / "data" / "eval" / "hr" / "kodim01.webp"

FRAMES, FRAME_RATE = 10, 8
FRAME = (96, 64)
# Part of the picture WALL: left, top, width, height. Mortar joints match at opposite edges.
TILE = (61, 164, 84, 80)
BLENDED = 10


def main() -> int:
    """Write the clip and the texture to the folder `workflows`."""
    write_clip(CLIP, list(pan(Image.open(PICTURE).convert("RGB"))))
    wall = np.asarray(Image.open(WALL).convert("RGB"), dtype=np.float32)
    Image.fromarray(make_periodic(wall).round().astype(np.uint8)).save(TEXTURE, optimize=True)
    for path in (CLIP, TEXTURE):
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
    return 0


def pan(picture: Image.Image) -> Iterator[Image.Image]:
    """Crop frames from a picture, moving from its left to its right edge."""
    w, h = FRAME
    top = (picture.height - h) // 2
    for i in range(FRAMES):
        left = round((picture.width - w) * i / (FRAMES - 1))
        yield picture.crop((left, top, left + w, top + h))


def write_clip(path: Path, frames: Sequence[Image.Image]) -> None:
    """Write an H.264 video that all browsers play. Frames must have even height and width."""
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "16"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode(None))


def make_periodic(picture: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Crop `TILE` from a picture [H,W,3]. Blend the right and bottom edges of the crop with the
    pixels beyond its left and top edges, so that it can be repeated without seams."""
    left, top, width, height = TILE
    part = picture[top - BLENDED : top + height, left - BLENDED : left + width]
    return blend_rows(blend_rows(part).swapaxes(0, 1)).swapaxes(0, 1)


def blend_rows(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Make an image repeat vertically without a seam: remove its first `BLENDED` rows, and fade its
    last `BLENDED` rows into the removed ones."""
    before, result = x[:BLENDED], x[BLENDED:].copy()
    weight = (np.arange(1, BLENDED + 1) / (BLENDED + 1))[:, None, None]
    result[-BLENDED:] += weight * (before - result[-BLENDED:])
    return result


if __name__ == "__main__":
    sys.exit(main())
