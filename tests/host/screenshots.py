"""Make the screenshots in js/docs: the quick start after a run, the slider of LPNSR Compare, and a
help page."""

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import FloatRect, Page

from .browser import drop_file, fit_view, open_help, opened
from .install import cache_dir
from .server import PACK, running

WORKFLOW = PACK / "workflows" / "LPNSR quick start.json"
DOCS = PACK / "js" / "docs"
MARGIN = 12


def main() -> int:
    """Run the workflow in the editor and write both pictures."""
    with running(cache_dir() / "base") as server:
        # no canvas statistics and no small map over the graph
        for setting in ("Comfy.Graph.CanvasInfo", "Comfy.Minimap.Visible"):
            server.post(f"/settings/{setting}", False)
        with opened(server, 2900, 1700) as page:
            page.evaluate("() => window.app.graph.clear()")
            drop_file(page, WORKFLOW)
            page.wait_for_function("() => window.app.graph.nodes.length === 10")
            fit_view(page)
            page.get_by_test_id("queue-button").click()
            page.wait_for_selector(".lpnsr-side img", timeout=120_000)
            page.mouse.move(0, 0)
            page.wait_for_timeout(2000)
            take(page, "screenshot-quick-start.jpg", graph_box(page), 1600)
            page.evaluate(
                """() => {
                    app.canvas.ds.scale = 1.5;
                    app.canvas.centerOnNode(app.graph.getNodeById(10));
                    app.canvas.setDirty(true, true);
                }"""
            )
            page.locator(".lpnsr-stage").hover()
            page.mouse.wheel(0, -220)
            page.mouse.move(0, 0)
            page.wait_for_timeout(500)
            take(page, "screenshot-compare.jpg", node_box(page, 10), 800)
        with opened(server, 1500, 1000) as page:
            help_page(page)
    return 0


def help_page(page: Page) -> None:
    """LPNSR Sample beside its help page."""
    open_help(page, "LPNSRSample")
    page.mouse.move(0, 0)
    page.wait_for_timeout(1000)
    take(page, "screenshot-help.jpg", {"x": 0, "y": 0, "width": 1500, "height": 1000}, 1200)


def graph_box(page: Page) -> FloatRect:
    """Where the groups are, on the page."""
    return page_box(page, "app.graph.groups.map(g => [...g.pos, ...g.size])")


def node_box(page: Page, node: int) -> FloatRect:
    """Where a node is, on the page."""
    return page_box(
        page,
        f"[app.graph.getNodeById({node})].map(n => [n.pos[0], n.pos[1] - 30, n.size[0], "
        "n.size[1] + 30])",
    )


def page_box(page: Page, boxes: str) -> FloatRect:
    """The page's rectangle around boxes [x, y, width, height] of the canvas."""
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
    """Write a part of the page as a JPEG of a width."""
    picture = Image.open(io.BytesIO(page.screenshot(clip=box))).convert("RGB")
    picture = picture.resize((width, round(picture.height * width / picture.width)))
    path: Path = DOCS / name
    picture.save(path, quality=82, optimize=True)
    print(f"{path}: {picture.width}x{picture.height}, {path.stat().st_size // 1024} kB")


if __name__ == "__main__":
    sys.exit(main())
