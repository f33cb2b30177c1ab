"""The templates that test_browser.py does not test, and the blueprint: they run in a real ComfyUI,
and its editor lists and draws them. Screenshots go to build/screenshots."""

import io
import re
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import requests
from PIL import Image
from playwright.sync_api import Page, expect

from tests.eventually import PATIENCE, eventually
from tests.host.browser import api_prompt, fit_view, open_templates
from tests.host.examples import write_clip
from tests.host.server import PACK, Server, load_api_workflow

from .editor import add, connect, in_one_renderer, picture_width, run, set_widget
from .test_browser import assert_twin, drop_workflow, ui_workflow
from .test_nodes import WORKFLOWS, save_picture

TEMPLATES = {  # scale and number of the results that LPNSR Compare shows
    "LPNSR compare steps": (4, 4),
    "LPNSR compare predictor": (4, 2),
    "LPNSR upscale video": (4, 2),
    "LPNSR chain with another upscaler": (16, 1),
    "LPNSR what was invented": (4, 1),
    "LPNSR seamless texture": (4, 0),
}
BLUEPRINT = "LPNSR upscale x4 (PreSet-B)"
LR = (20, 16)  # width, height; ComfyUI cannot read videos of less than 16 rows


def nodes_of_type(prompt: dict[str, Any], class_type: str) -> list[str]:
    return [node for node, spec in prompt.items() if spec["class_type"] == class_type]


def load_small_files(prompt: dict[str, Any], server: Server, folder: Path) -> None:
    """Make the nodes of a prompt load a small picture and a clip of two frames."""
    picture = save_picture(folder / "small.png", *LR)
    for node in nodes_of_type(prompt, "LoadImage"):
        prompt[node]["inputs"]["image"] = server.upload(picture)
    for node in nodes_of_type(prompt, "LoadVideo"):
        write_clip(folder / "small.mp4", 2 * [Image.open(picture)])
        prompt[node]["inputs"]["file"] = server.upload(folder / "small.mp4")


def fetch(server: Server, image: dict[str, str]) -> bytes:
    return requests.get(server.url + "/view", image, timeout=PATIENCE).content


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_runs(server: Server, tmp_path: Path, name: str) -> None:
    scale, count = TEMPLATES[name]
    prompt = load_api_workflow(name)
    load_small_files(prompt, server, tmp_path)
    outputs = server.run(prompt)
    pairs = [i for node in nodes_of_type(prompt, "LPNSRCompare") for i in outputs[node]["images"]]
    shown = [Image.open(io.BytesIO(fetch(server, image))) for image in pairs]
    assert [image.size for image in shown] == 2 * count * [(scale * LR[0], scale * LR[1])]
    for node in nodes_of_type(prompt, "PreviewImage") + nodes_of_type(prompt, "SaveImage"):
        assert outputs[node]["images"]
    for node in nodes_of_type(prompt, "SaveVideo"):
        (saved,) = outputs[node]["images"]
        with av.open(io.BytesIO(fetch(server, saved))) as video:
            sizes = [(frame.width, frame.height) for frame in video.decode(video=0)]
        assert sizes == count * [(scale * LR[0], scale * LR[1])]


def test_the_texture_shows_a_seam_only_without_wrap(server: Server) -> None:
    prompt = load_api_workflow("LPNSR seamless texture")
    outputs = server.run(prompt)

    def seam(title: str) -> float:
        """Return the vertical gradient at the seam, in the middle of the repeated texture, relative
        to the mean gradient."""
        (node,) = (n for n, spec in prompt.items() if spec["_meta"]["title"] == title)
        (image,) = outputs[node]["images"]
        x = np.asarray(Image.open(io.BytesIO(fetch(server, image))).convert("RGB"), dtype=float)
        steps = np.abs(np.diff(x, axis=0)).mean(axis=(1, 2))
        return steps[len(x) // 2 - 1] / steps.mean()

    assert seam("2 x 2, wrap both") < 1.5 < seam("2 x 2, wrap none")


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_is_drawn_clearly_and_becomes_its_api_twin(
    page: Page, name: str, screenshots: Path
) -> None:
    drop_workflow(page, name)
    fit_view(page)
    page.screenshot(path=screenshots / f"{name}.png")
    assert_twin(page, name)
    assert page.locator(".p-dialog").count() == 0, "a dialog reports missing nodes or models"
    # Nodes 2.0 needs a moment to lay out the nodes.
    eventually(lambda: overlapping(page), [])


def overlapping(page: Page) -> list[list[str]]:
    """Return the titles of overlapping nodes, in pairs."""
    return page.evaluate(
        """() => {
            const boxes = app.graph.nodes.map(n => [n.title, ...n.boundingRect]);
            return boxes.flatMap(([a, x, y, w, h], i) => boxes.slice(0, i)
                .filter(([, x2, y2, w2, h2]) => x < x2 + w2 && x2 < x + w && y < y2 + h2
                    && y2 < y + h)
                .map(([b]) => [a, b]));
        }"""
    )


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_needs_nothing_else(server: Server, name: str) -> None:
    """A template uses only the pack's nodes, core nodes that are not deprecated, and files of the
    pack. Its note has three numbered steps."""
    nodes = ui_workflow(name)["nodes"]
    info = server.get("/object_info")
    for node in nodes:
        if node["type"] == "MarkdownNote":
            (text,) = node["widgets_values"]
            assert [line[:2] for line in text.splitlines() if line[:1].isdigit()] == [
                "1.",
                "2.",
                "3.",
            ]
        else:
            module = info[node["type"]]["python_module"]
            assert not info[node["type"]].get("deprecated")
            assert module.split(".")[0] in ("nodes", "comfy_extras") or module.endswith(".LPNSR")
    named = {
        value
        for node in nodes
        for value in node.get("widgets_values", [])
        if str(value).endswith((".png", ".mp4", ".safetensors", ".pth"))
    }
    shipped = {
        path.name for folder in ("workflows", "lpnsr_impl") for path in (PACK / folder).rglob("*.*")
    }
    assert named <= shipped
    thumbnail = requests.get(
        f"{server.url}/api/workflow_templates/LPNSR/{name}.jpg", timeout=PATIENCE
    )
    assert Image.open(io.BytesIO(thumbnail.content)).width > 300


@in_one_renderer
def test_the_template_browser_leads_to_a_picture(page: Page, screenshots: Path) -> None:
    open_templates(page)
    for name in [*WORKFLOWS, *TEMPLATES]:
        expect(page.get_by_test_id(f"template-workflow-{name}")).to_be_attached()
    page.screenshot(path=screenshots / "template browser.png")
    page.get_by_test_id("template-workflow-LPNSR quick start").click()
    page.wait_for_function("() => app.graph.nodes.some(n => n.type === 'LPNSRCompare')")
    run(page)
    page.wait_for_selector(".lpnsr-side img")


def test_the_blueprint_is_one_box_from_the_node_library(page: Page, screenshots: Path) -> None:
    page.get_by_role("button", name="Node Library").click()
    page.get_by_placeholder(re.compile("^Search")).first.fill(BLUEPRINT)
    page.get_by_text(BLUEPRINT).first.click()
    page.mouse.click(900, 1000)  # some front ends add the node only after a click on the canvas
    page.wait_for_function("() => app.graph.nodes.length === 1")
    box = page.evaluate("() => app.graph.nodes[0].id")
    widgets = page.evaluate("() => app.graph.nodes[0].widgets.map(w => w.name)")
    assert [name.split(": ")[-1] for name in widgets] == ["seed", "steps"]
    page.get_by_role("button", name="Node Library").click()
    x, y = page.evaluate("() => [...app.graph.nodes[0].pos]")
    image = add(page, "LoadImage", x - 400, y, image="lpnsr_example.png")
    preview = add(page, "PreviewImage", x + 400, y)
    connect(page, image, box, "image")
    connect(page, box, preview, "images")
    set_widget(page, box, widgets[1], 1)
    prompt = api_prompt(page)
    (upscale,) = nodes_of_type(prompt, "LPNSRUpscale")
    assert prompt[upscale]["inputs"]["steps"] == 1
    run(page)
    eventually(lambda: picture_width(page, preview), 752)
    fit_view(page)
    page.screenshot(path=screenshots / "blueprint.png")
