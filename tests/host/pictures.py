"""Make the thumbnails of the workflows and the comparison in the README, by running the workflows.

The PreSet workflows run with the lite models instead of the released ones.
"""

import io
import sys
from collections.abc import Sequence
from typing import Any

import requests
from PIL import Image, ImageDraw, ImageFont

from tests.eventually import PATIENCE

from .install import cache_dir
from .server import PACK, Server, load_api_workflow, node_of_type, running

PICTURE = PACK / "workflows" / "lpnsr_example.png"
WORKFLOWS = ("LPNSR quick start", "LPNSR PreSet-A", "LPNSR PreSet-B")
LOADERS = ("LoadLPNSRModels", "UpscaleModelLoader")


def main() -> int:
    """Run every workflow once and write the pictures."""
    with running(cache_dir() / "base") as server:
        results = {name: run(server, name) for name in WORKFLOWS}
        for name, thumbnail in TEMPLATES.items():
            picture = thumbnail(shown(server, name))
            picture.thumbnail((752, 752))
            picture.save(PACK / "workflows" / f"{name}.jpg", quality=85)
    lr = Image.open(PICTURE).convert("RGB")
    for name, result in results.items():
        halves(lr, result).save(PACK / "workflows" / f"{name}.jpg", quality=88)
    comparison(lr, results[WORKFLOWS[0]]).save(PACK / "js" / "docs" / "comparison.jpg", quality=90)
    return 0


def run(server: Server, name: str) -> Image.Image:
    """Run a workflow on the example picture, with the lite models."""
    prompt: dict[str, Any] = load_api_workflow(name)
    node_of_type(prompt, "LoadImage")["inputs"]["image"] = server.upload(PICTURE)
    lite = load_api_workflow(WORKFLOWS[0])
    for node in prompt.values():
        if node["class_type"] in LOADERS:
            node["inputs"].update(node_of_type(lite, node["class_type"])["inputs"])
    (picture,) = server.images(server.run(prompt))
    return Image.open(io.BytesIO(picture)).convert("RGB")


def shown(server: Server, name: str) -> list[Image.Image]:
    """Run a shipped workflow. Returns the images that its nodes show, in the order of node ids."""
    outputs = server.run(load_api_workflow(name))
    files = [file for node in sorted(outputs, key=int) for file in outputs[node].get("images", [])]
    answers = [requests.get(server.url + "/view", file, timeout=PATIENCE) for file in files]
    return [
        Image.open(io.BytesIO(answer.content)).convert("RGB")
        for answer in answers
        if answer.headers["Content-Type"].startswith("image")
    ]


def grid(pictures: Sequence[Image.Image]) -> Image.Image:
    """Arrange two pictures side by side, or four in two rows."""
    w, h = pictures[0].size
    result = Image.new("RGB", (2 * w + 4, h if len(pictures) == 2 else 2 * h + 4), "white")
    for i, picture in enumerate(pictures):
        result.paste(picture, (i % 2 * (w + 4), i // 2 * (h + 4)))
    return result


def halves(lr: Image.Image, result: Image.Image) -> Image.Image:
    """Join the left half of the LR picture, enlarged without interpolation, and the right half of
    the result."""
    picture = lr.resize(result.size, Image.Resampling.NEAREST)
    half = result.width // 2
    picture.paste(result.crop((half, 0, *result.size)), (half, 0))
    ImageDraw.Draw(picture).line([(half, 0), (half, result.height)], fill="white", width=3)
    return picture


def comparison(lr: Image.Image, result: Image.Image) -> Image.Image:
    """Show LR picture, bicubic and result side by side, with titles."""
    return sheet(
        {
            f"LR, {lr.width}x{lr.height}": lr.resize(result.size, Image.Resampling.NEAREST),
            "bicubic x4": lr.resize(result.size, Image.Resampling.BICUBIC),
            "LPNSR lite, 4 steps": result,
        },
        22,
    )


def sheet(pictures: dict[str, Image.Image], font: int) -> Image.Image:
    """Show pictures of equal size side by side, with titles.

    Args:
        pictures: pictures by title.
        font: height of the titles in pixels.
    """
    title = font + 12
    width, height = next(iter(pictures.values())).size
    picture = Image.new("RGB", (len(pictures) * (width + 8) - 8, height + title), "white")
    draw = ImageDraw.Draw(picture)
    for i, (name, part) in enumerate(pictures.items()):
        x = i * (width + 8)
        draw.text((x + 4, 4), name, fill="black", font=ImageFont.load_default(font))
        picture.paste(part, (x, title))
    return picture


# For each template, a function that makes its thumbnail from the images that its nodes show. Images
# of LPNSR Compare alternate between LR and result.
TEMPLATES = {
    "LPNSR compare steps": lambda shown: grid([p.crop((136, 100, 376, 260)) for p in shown[1::2]]),
    "LPNSR compare predictor": lambda shown: grid(
        [p.crop((136, 100, 376, 340)) for p in shown[1::2]]
    ),
    "LPNSR upscale video": lambda shown: grid(shown[1::6][:4]),
    "LPNSR chain with another upscaler": lambda shown: halves(shown[0], shown[1]),
    "LPNSR what was invented": lambda shown: halves(shown[2], shown[0]),
    "LPNSR seamless texture": lambda shown: shown[0],
}


if __name__ == "__main__":
    sys.exit(main())
