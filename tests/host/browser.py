"""Operate a running ComfyUI in a real browser: Playwright with Debian's Chromium."""

import base64
import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.eventually import PATIENCE, eventually

from .server import Server

_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-sync",
]


MILLISECONDS = 1000 * PATIENCE
"""Timeout of all waits in the browser."""
expect.set_options(timeout=MILLISECONDS)


def chromium_path() -> str:
    """Return the path of the system's Chromium.

    Raises:
        FileNotFoundError: Chromium is not installed.
    """
    path = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if path is None:
        raise FileNotFoundError(
            "There is no Chromium on this machine. Install it: apt-get install chromium"
        )
    return path


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Start a browser. Until it is closed, no event loop can be started in this thread."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium_path(), args=_ARGUMENTS, timeout=MILLISECONDS
        )
        yield browser
        browser.close()


@contextlib.contextmanager
def open_editor(
    server: Server, width: int = 2000, height: int = 1150, browser: Browser | None = None
) -> Iterator[Page]:
    """Open ComfyUI's editor on a new page, in the given browser or a new one."""
    server.post("/settings/Comfy.TutorialCompleted", True)
    with contextlib.ExitStack() as stack:
        page = (browser or stack.enter_context(chromium())).new_page(
            viewport={"width": width, "height": height}
        )
        load_editor(page, server)
        yield page
        page.close()


def load_editor(page: Page, server: Server) -> None:
    """Open ComfyUI's editor on a page."""
    page.set_default_timeout(MILLISECONDS)
    page.goto(server.url)
    # Wait for the default workflow, which the editor opens as the last step of loading.
    page.wait_for_function(
        "() => window.app?.extensionManager?.workflow?.activeWorkflow && app.graph.nodes.length"
    )
    page.wait_for_selector("canvas#graph-canvas")
    wait_for_frames(page)


def wait_for_frames(page: Page) -> None:
    """Wait until the page has drawn all changes, which takes several frames."""
    page.evaluate(
        "async () => { for (let i = 0; i < 4; i++) await new Promise(requestAnimationFrame); }"
    )


def drop_file(page: Page, path: Path) -> None:
    """Drag a file onto the page, as a user would."""
    page.evaluate(
        """([name, content]) => {
            const bytes = Uint8Array.from(atob(content), c => c.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, {type: 'application/json'}));
            const event = new DragEvent('drop', {dataTransfer: transfer, bubbles: true, cancelable:
            true}); document.dispatchEvent(event);
        }""",
        [path.name, base64.b64encode(path.read_bytes()).decode()],
    )


def open_templates(page: Page) -> None:
    """Show the pack's templates in the template browser."""
    page.get_by_role("button", name="Templates").first.click()
    page.get_by_role("dialog").get_by_text("LPNSR", exact=True).first.click()
    page.get_by_test_id("template-workflow-LPNSR quick start").wait_for()


def wait_for_nodes(page: Page) -> None:
    """Wait until all nodes are on the page. Nodes 2.0 draw a node some time after it was added to
    the graph."""
    page.wait_for_function(
        """() => !LiteGraph.vueNodesMode || app.canvas.graph.nodes.every(
            node => document.querySelector(`[data-node-id="${node.id}"]`))"""
    )
    wait_for_frames(page)


def view(page: Page, code: str, argument: Any = None) -> None:
    """Run code that changes the view of the graph. Repeat it until the layout of the nodes is
    stable, since Nodes 2.0 measure nodes with a delay.

    The view changes between frames, and not during them as in the editor's own animations: Nodes
    2.0 of front end 1.32 permanently misplace nodes if the view changes while they are measured.

    Args:
        page: page with the editor.
        code: JavaScript statements. They can use `argument`, and `boxes`, the rectangles [x, y,
            width, height] of all nodes and groups.
        argument: value for the code.

    Raises:
        AssertionError: the layout does not become stable.
    """

    def change() -> list[list[float]]:
        boxes = page.evaluate(
            f"""argument => {{
                const boxes = [...app.canvas.graph.nodes, ...app.canvas.graph.groups].map(
                    item => [...item.boundingRect]);
                {code}
                app.canvas.setDirty(true, true);
                return boxes;
            }}""",
            argument,
        )
        wait_for_frames(page)
        return boxes

    wait_for_nodes(page)
    layouts = [change()]

    def settled() -> bool:
        layouts.append(change())
        return layouts[-1] == layouts[-2]

    eventually(settled)


def fit_view(page: Page) -> None:
    """Show the whole graph, since nodes outside the view load no preview."""
    view(
        page,
        """app.canvas.deselectAll();
        const [left, top] = [0, 1].map(i => Math.min(...boxes.map(box => box[i])));
        const [width, height] = [left, top].map(
            (start, i) => Math.max(...boxes.map(box => box[i] + box[i + 2])) - start);
        app.canvas.ds.fitToBounds([left, top, width, height]);""",
    )


def look_at(page: Page, node: int, scale: float = 1.2) -> None:
    """Center the view on a node."""
    view(
        page,
        """app.canvas.ds.scale = argument.scale;
        app.canvas.centerOnNode(app.canvas.graph.getNodeById(argument.node));""",
        {"node": node, "scale": scale},
    )


def open_help(page: Page, node_type: str) -> None:
    """Add a single node to an empty graph, open its help page, and wait for the picture."""
    node = page.evaluate(
        """type => {
            const node = LiteGraph.createNode(type);
            app.graph.clear();
            app.graph.add(node);
            return node.id;
        }""",
        node_type,
    )
    look_at(page, node, 1)
    title = page.evaluate(
        """id => {
            const {pos} = app.graph.getNodeById(id);
            return app.canvasPosToClientPos([pos[0] + 60, pos[1] - 12]);
        }""",
        node,
    )
    page.mouse.click(*title)
    page.get_by_test_id("info-button").click()
    page.wait_for_function("() => document.querySelector('.node-help-content img')?.naturalWidth")


def node_types(page: Page) -> list[str]:
    """Return the types of all nodes in the graph."""
    return page.evaluate("() => window.app.graph.nodes.map(n => n.type)")


def api_prompt(page: Page) -> dict[str, Any]:
    """Return the prompt that the page would queue, in API format."""
    return json.loads(
        page.evaluate("async () => JSON.stringify((await window.app.graphToPrompt()).output)")
    )
