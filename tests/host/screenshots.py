"""Make the screenshots in js/docs: the quick start during and after a run, the slider of LPNSR
Compare, the template browser, the template "what was invented", and a help page."""

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import FloatRect, Page

from .browser import drop_file, fit_view, look_at, open_editor, open_help, open_templates
from .install import cache_dir
from .server import PACK, running

WORKFLOWS = PACK / "workflows"
DOCS = PACK / "js" / "docs"
MARGIN = 12
MINUTE = 60_000
"""A minute in milliseconds."""


def main() -> int:
    """Run the workflows in the editor, and write the screenshots."""
    options = ("--cpu", "--preview-method", "auto")
    with running(cache_dir() / "base", device=options) as server:
        # Hide canvas statistics and the minimap.
        for setting in ("Comfy.Graph.CanvasInfo", "Comfy.Minimap.Visible"):
            server.post(f"/settings/{setting}", False)
        with open_editor(server, 2900, 1700) as page:
            quick_start(page)
            at_work(page)
            invented(page)
            templates(page)
        with open_editor(server, 1500, 1000) as page:
            help_page(page)
    return 0


def quick_start(page: Page) -> None:
    """Take screenshots of the quick start after a run, and of the slider."""
    show(page, "LPNSR quick start")
    run(page)
    page.wait_for_selector(".lpnsr-side img", timeout=3 * MINUTE)
    page.mouse.move(0, 0)
    page.wait_for_timeout(2000)
    take(page, "screenshot-quick-start.jpg", groups_box(page), 1600)
    look_at(page, 10, 1.5)
    page.locator(".lpnsr-stage").hover()
    page.mouse.wheel(0, -220)
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)
    take(page, "screenshot-compare.jpg", node_box(page, 10), 800)


def at_work(page: Page) -> None:
    """Take a screenshot of LPNSR Sample in its third step. Small tiles make it long enough."""
    show(page, "LPNSR quick start")
    node = page.evaluate(
        """() => {
            const node = app.graph.nodes.find(n => n.type === 'LPNSRSample');
            node.widgets.find(w => w.name === 'tile_size').value = 64;
            return node.id;
        }"""
    )
    look_at(page, node, 1.3)
    run(page)
    page.get_by_text("step 3/4, tile").wait_for(timeout=3 * MINUTE)
    take(page, "screenshot-preview.jpg", node_box(page, node), 640)
    page.wait_for_function("() => app.ui.lastQueueSize === 0", timeout=3 * MINUTE)


def invented(page: Page) -> None:
    """Take screenshots of two groups of the template "LPNSR what was invented": the invention map,
    and the steps of LPNSR Inspect."""
    show(page, "LPNSR what was invented")
    run(page)
    page.wait_for_function(
        "() => app.graph.nodes.every(n => n.type !== 'PreviewImage' || n.imgs?.[0]?.naturalWidth)",
        timeout=6 * MINUTE,
    )
    page.mouse.move(0, 0)
    page.wait_for_timeout(2000)
    take(page, "screenshot-invention-map.jpg", groups_box(page, "3"), 1500)
    take(page, "screenshot-inspect.jpg", groups_box(page, "4"), 1500)


def templates(page: Page) -> None:
    """Take a screenshot of the template browser."""
    page.evaluate("() => app.graph.clear()")
    page.set_viewport_size({"width": 1600, "height": 1500})
    open_templates(page)
    page.wait_for_function(
        """() => [...document.querySelectorAll('[data-testid^=template-workflow-LPNSR] img')]
            .every(image => image.naturalWidth)"""
    )
    page.mouse.move(0, 0)
    page.wait_for_timeout(1000)
    box = page.get_by_role("dialog").first.bounding_box()
    assert box
    take(page, "screenshot-templates.jpg", FloatRect(**box), 1200)


def help_page(page: Page) -> None:
    """Take a screenshot of LPNSR Sample and its help page."""
    open_help(page, "LPNSRSample")
    page.mouse.move(0, 0)
    page.wait_for_timeout(1000)
    take(page, "screenshot-help.jpg", {"x": 0, "y": 0, "width": 1500, "height": 1000}, 1200)


def show(page: Page, workflow: str) -> None:
    """Load a shipped workflow by dropping it on the editor."""
    page.evaluate("() => app.graph.clear()")
    drop_file(page, WORKFLOWS / f"{workflow}.json")
    page.wait_for_function("() => app.graph.nodes.length > 1")
    fit_view(page)


def run(page: Page) -> None:
    """Press Run."""
    page.get_by_test_id("queue-button").click()


def groups_box(page: Page, title: str = "") -> FloatRect:
    """Return the rectangle on the page that encloses the groups whose titles start with `title`."""
    return page_box(
        page,
        f"app.graph.groups.filter(g => g.title.startsWith('{title}')).map(g => "
        "[...g.pos, ...g.size])",
    )


def node_box(page: Page, node: int) -> FloatRect:
    """Return the rectangle of a node on the page."""
    return page_box(
        page,
        f"[app.graph.getNodeById({node})].map(n => [n.pos[0], n.pos[1] - 30, n.size[0], "
        "n.size[1] + 30])",
    )


def page_box(page: Page, boxes: str) -> FloatRect:
    """Return the rectangle on the page that encloses boxes [x, y, width, height] of the canvas."""
    left, top, right, bottom = page.evaluate(
        f"""() => {{
            const boxes = {boxes};
            const corner = (side, by) => app.canvasPosToClientPos(
                [0, 1].map(i => side(...boxes.map(box => box[i] + by * box[i + 2]))));
            return [...corner(Math.min, 0), ...corner(Math.max, 1)];
        }}"""
    )
    return {
        "x": left - MARGIN,
        "y": top - MARGIN,
        "width": right - left + 2 * MARGIN,
        "height": bottom - top + 2 * MARGIN,
    }


def take(page: Page, name: str, box: FloatRect, width: int) -> None:
    """Write a part of the page as a JPEG of the given width."""
    picture = Image.open(io.BytesIO(page.screenshot(clip=box))).convert("RGB")
    picture = picture.resize((width, round(picture.height * width / picture.width)))
    path: Path = DOCS / name
    picture.save(path, quality=82, optimize=True)
    print(f"{path}: {picture.width}x{picture.height}, {path.stat().st_size // 1024} kB")


if __name__ == "__main__":
    sys.exit(main())
