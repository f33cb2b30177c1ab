"""Make what the templates load beside the example picture: a clip that pans over it, and a texture
whose opposite edges fit together.

python -m tests.host.examples
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

FRAMES, FRAMES_A_SECOND = 10, 8
FRAME = (96, 64)
TILE = (61, 164, 84, 80)  # left, top, width, height: where the joints of the wall meet again
BLENDED = 10


def main() -> int:
    """Write both files into `workflows`."""
    write_clip(CLIP, list(pan(Image.open(PICTURE).convert("RGB"))))
    wall = np.asarray(Image.open(WALL).convert("RGB"), dtype=np.float32)
    Image.fromarray(periodic(wall).round().astype(np.uint8)).save(TEXTURE, optimize=True)
    for path in (CLIP, TEXTURE):
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
    return 0


def pan(picture: Image.Image) -> Iterator[Image.Image]:
    """Parts of a picture, from its left to its right edge."""
    w, h = FRAME
    top = (picture.height - h) // 2
    for i in range(FRAMES):
        left = round((picture.width - w) * i / (FRAMES - 1))
        yield picture.crop((left, top, left + w, top + h))


def write_clip(path: Path, frames: Sequence[Image.Image]) -> None:
    """H.264 that every browser plays. Height and width of the frames have to be even."""
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_A_SECOND)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "16"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode(None))


def periodic(picture: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A part of a picture [H,W,3] that can be repeated: its right and lower edge fade to what is
    left of it and above it there."""
    left, top, width, height = TILE
    part = picture[top - BLENDED : top + height, left - BLENDED : left + width]
    return folded(folded(part).swapaxes(0, 1)).swapaxes(0, 1)


def folded(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The first rows, cut off and faded in over the last."""
    before, result = x[:BLENDED], x[BLENDED:].copy()
    weight = (np.arange(1, BLENDED + 1) / (BLENDED + 1))[:, None, None]
    result[-BLENDED:] += weight * (before - result[-BLENDED:])
    return result


if __name__ == "__main__":
    sys.exit(main())
