"""Helpers that operate ComfyUI's editor like a user."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page

from tests.eventually import eventually
from tests.host.browser import look_at, open_editor, wait_for_frames
from tests.host.server import Server

CLASSIC, NODES_2 = "classic", "nodes2"
"""Names of the editor's two node renderers: the canvas, and Nodes 2.0."""

in_one_renderer = pytest.mark.parametrize("renderer", [CLASSIC], indirect=True)
"""Mark for tests that do not depend on the renderer. They run with the canvas only."""

CHANGES = "app.extensionManager.workflow.activeWorkflow.changeTracker"


@contextlib.contextmanager
def watch_editor(
    browser: Browser, server: Server, renderer: str
) -> Iterator[tuple[Page, list[str]]]:
    """Open the editor with the given renderer. Yields the page, and a list to which JavaScript
    errors on the page are appended."""
    server.post("/settings/Comfy.VueNodes.Enabled", renderer == NODES_2)
    errors: list[str] = []
    with open_editor(server, browser=browser) as page:
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
    wait_for_frames(page)


def clear(page: Page) -> None:
    """Load an empty workflow that sets scale and offset of the canvas. Without them, the editor
    would change the view one frame later."""
    view = {"scale": 1, "offset": [200, 200]}
    empty = {"nodes": [], "links": [], "version": 0.4, "extra": {"ds": view}}
    empty |= {"last_node_id": 0, "last_link_id": 0}
    page.evaluate("async empty => { await app.loadGraphData(empty) }", empty)


def add(page: Page, node_type: str, x: int = 0, y: int = 0, **values: Any) -> int:
    """Add a node, set its widgets as if the user had done so, and return the id of the node."""
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
    """Return the width of the picture that a node shows, or 0 if it shows none yet."""
    return page.evaluate(
        """id => {
            const image = app.graph.getNodeById(id).imgs?.[0] ??
                document.querySelector(`[data-node-id="${id}"] img`);
            return image?.naturalWidth ?? 0;
        }""",
        node,
    )


def undo(page: Page) -> None:
    """Undo the last change with Control+Z. The keys stay pressed until the earlier state is loaded,
    since ComfyUI would record a change if a key were released during loading."""
    steps = undo_steps(page)
    page.keyboard.down("Control")
    page.keyboard.down("z")
    eventually(lambda: undo_steps(page), steps - 1)
    eventually(lambda: page.evaluate(f"() => {CHANGES}._restoringState"), False)
    page.keyboard.up("z")
    page.keyboard.up("Control")
    wait_for_frames(page)


def undo_steps(page: Page) -> int:
    return page.evaluate(f"() => {CHANGES}.undoQueue.length")


def record(page: Page) -> None:
    """Make the editor record changes by scripts for undo, as it does for changes by clicks."""
    page.evaluate("() => { app.canvas.emitBeforeChange(); app.canvas.emitAfterChange(); }")


def compare_graph(page: Page, *pictures: tuple[str, str]) -> int:
    """Add LPNSR Compare and nodes that load its pictures: one or two pairs of file names (LR,
    result). Returns the id of LPNSR Compare."""
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
    """Wait until a visible slider shows a pair of pictures, and its size no longer changes."""
    eventually(page.locator(".lpnsr-side img:visible").count, 2)

    def sizes() -> list[list[int]]:
        script = "all => all.map((stage) => [stage.clientWidth, stage.clientHeight])"
        return page.eval_on_selector_all(".lpnsr-stage", script)

    def has_settled() -> bool:
        before = sizes()
        wait_for_frames(page)
        return sizes() == before

    eventually(has_settled)


def slider(page: Page) -> Locator:
    return page.locator(".lpnsr-compare").get_by_role("slider")


def divider(page: Page) -> int:
    """Return the position of the slider's divider in percent."""
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
