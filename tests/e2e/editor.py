"""What tests do in ComfyUI's editor, as a user would."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page

from tests.eventually import eventually
from tests.host.browser import drawn, look_at, opened
from tests.host.server import Server

CLASSIC, NODES_2 = "classic", "nodes2"
"""What can draw nodes: the canvas, or Nodes 2.0."""

in_one_renderer = pytest.mark.parametrize("renderer", [CLASSIC], indirect=True)
"""For tests of what does not depend on what draws the nodes."""

CHANGES = "app.extensionManager.workflow.activeWorkflow.changeTracker"


@contextlib.contextmanager
def watched(browser: Browser, server: Server, renderer: str) -> Iterator[tuple[Page, list[str]]]:
    """A page that draws nodes by `renderer`, and the errors on it that are ours."""
    server.post("/settings/Comfy.VueNodes.Enabled", renderer == NODES_2)
    errors: list[str] = []
    with opened(server, browser=browser) as page:
        page.on("pageerror", lambda error: errors.append(str(error.stack)))
        page.on(
            "console",
            lambda message: (
                errors.append(f"{message.text} {message.location['url']}")
                if message.type == "error"
                and "/extensions/LPNSR" in message.text + message.location["url"]
                else None
            ),
        )
        yield page, errors


def set_setting(page: Page, name: str, value: Any) -> None:
    page.evaluate("([name, value]) => app.extensionManager.setting.set(name, value)", [name, value])
    drawn(page)


def clear(page: Page) -> None:
    """An empty workflow, with a view of its own: else the editor fits it, a frame later."""
    view = {"scale": 1, "offset": [200, 200]}
    empty = {"nodes": [], "links": [], "version": 0.4, "extra": {"ds": view}}
    empty |= {"last_node_id": 0, "last_link_id": 0}
    page.evaluate("async empty => { await app.loadGraphData(empty) }", empty)


def add(page: Page, node_type: str, x: int = 0, y: int = 0, **values: Any) -> int:
    """A new node with some widgets' values, as if a user had chosen them. Returns its id."""
    return page.evaluate(
        """([type, pos, values]) => {
            const node = LiteGraph.createNode(type);
            node.pos = pos;
            app.graph.add(node);
            for (const widget of node.widgets ?? []) if (widget.name in values) {
                widget.value = values[widget.name];
                widget.callback?.(widget.value);
            }
            return node.id;
        }""",
        [node_type, [x, y], values],
    )


def connect(page: Page, source: int, target: int, name: str) -> None:
    page.evaluate(
        "([a, b, name]) => app.graph.getNodeById(a).connect(0, app.graph.getNodeById(b), name)",
        [source, target, name],
    )


def set_widget(page: Page, node: int, name: str, value: Any) -> None:
    page.evaluate(
        """([id, name, value]) => {
            const widget = app.graph.getNodeById(id).widgets.find(w => w.name === name);
            widget.value = value;
            widget.callback?.(value);
        }""",
        [node, name, value],
    )


def values(page: Page, node: int) -> dict[str, Any]:
    return page.evaluate(
        "id => Object.fromEntries(app.graph.getNodeById(id).widgets.map(w => [w.name, w.value]))",
        node,
    )


def node_of(page: Page, node_type: str) -> int:
    return page.evaluate("type => app.graph.nodes.find(n => n.type === type).id", node_type)


def picture_width(page: Page, node: int) -> int:
    """Width of the picture that a node shows, 0 where it shows none yet."""
    return page.evaluate(
        """id => {
            const image = app.graph.getNodeById(id).imgs?.[0] ??
                document.querySelector(`[data-node-id="${id}"] img`);
            return image?.naturalWidth ?? 0;
        }""",
        node,
    )


def undo(page: Page) -> None:
    """Hold Control+Z until it is done: a key let go while ComfyUI loads is taken for a change."""
    steps = undo_steps(page)
    page.keyboard.down("Control")
    page.keyboard.down("z")
    eventually(lambda: undo_steps(page), steps - 1)
    eventually(lambda: page.evaluate(f"() => {CHANGES}._restoringState"), False)
    page.keyboard.up("z")
    page.keyboard.up("Control")
    drawn(page)


def undo_steps(page: Page) -> int:
    return page.evaluate(f"() => {CHANGES}.undoQueue.length")


def record(page: Page) -> None:
    """Let the page record what a test changed by code, as it does after each click of a user."""
    page.evaluate("() => { app.canvas.emitBeforeChange(); app.canvas.emitAfterChange(); }")


def compare_graph(page: Page, *pictures: tuple[str, str]) -> int:
    """LPNSR Compare of one or two pairs (LR, result)."""
    compare = add(page, "LPNSRCompare", 700)
    for i, name in enumerate(("lr_image", "image")):
        loaders = [
            add(page, "LoadImage", 400 * j - 100, 450 * i, image=pair[i])
            for j, pair in enumerate(pictures)
        ]
        source = loaders[0]
        if len(loaders) == 2:
            source = add(page, "ImageBatch", 350, 450 * i + 350)
            for j, loader in enumerate(loaders):
                connect(page, loader, source, f"image{j + 1}")
        connect(page, source, compare, name)
    look_at(page, compare)
    return compare


def run(page: Page) -> None:
    page.get_by_test_id("queue-button").click()


def wait_for_pictures(page: Page) -> None:
    """Until one slider that is in sight shows a pair."""
    eventually(page.locator(".lpnsr-side img:visible").count, 2)
    drawn(page)


def slider(page: Page) -> Locator:
    return page.locator(".lpnsr-compare").get_by_role("slider")


def at(page: Page) -> int:
    return int(slider(page).get_attribute("aria-valuenow") or "")


def zoom(page: Page) -> float:
    _, _, number = (page.locator(".lpnsr-info").text_content() or "").partition("zoom ")
    return float(number or 1)


def stage_point(page: Page, x: float, y: float = 0.4) -> tuple[float, float]:
    box = page.locator(".lpnsr-stage").bounding_box()
    assert box
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def drag(page: Page, a: float, b: float, **options: Any) -> None:
    page.mouse.move(*stage_point(page, a))
    page.mouse.down(**options)
    page.mouse.move(*stage_point(page, b), steps=4)
    page.mouse.up(**options)
