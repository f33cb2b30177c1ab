"""Load the shipped workflows in the editor and save them again, for example after a node has got a
new widget. Also writes them in API format.

Usage: `python -m tests.host.resave ["LPNSR quick start" ...]`
"""

import json
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from .browser import api_prompt, open_editor
from .install import cache_dir
from .server import PACK, running

WORKFLOWS = PACK / "workflows"
EXTRA = ("ds", "linkExtensions", "reroutes")
"""Keys of a workflow's `extra` that describe the graph and are kept. Other keys describe the
editor."""


def main() -> int:
    """Save the workflows named on the command line, or all if none is named."""
    names = sys.argv[1:] or [path.stem for path in sorted(WORKFLOWS.glob("*.json"))]
    with running(cache_dir() / "base") as server, open_editor(server) as page:
        for name in names:
            path = WORKFLOWS / f"{name}.json"
            write(path, resave(page, json.loads(path.read_text())), indent=1)
            write(WORKFLOWS / "api" / path.name, api_prompt(page), indent=2)
    return 0


def resave(page: Page, workflow: dict[str, Any]) -> dict[str, Any]:
    """Load a workflow in the editor, and return what the editor would save, with the same view."""
    view = workflow["extra"]["ds"]
    page.evaluate("async workflow => { await app.loadGraphData(workflow) }", workflow)
    # Return the graph as text, since Playwright would convert undefined to null.
    result = json.loads(page.evaluate("() => JSON.stringify(app.graph.serialize())"))
    del result["id"]
    result["extra"] = {**{k: v for k, v in result["extra"].items() if k in EXTRA}, "ds": view}
    return result


def write(path: Path, data: dict[str, Any], indent: int) -> None:
    """Write JSON in the format of the existing files."""
    path.write_text(json.dumps(data, indent=indent, ensure_ascii=False) + "\n")
    print(path)


if __name__ == "__main__":
    sys.exit(main())
