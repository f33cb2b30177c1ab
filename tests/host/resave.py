"""Save the shipped workflows again with the editor, e.g. after nodes have got new widgets, and
write them in API format, too.

python -m tests.host.resave ["LPNSR quick start" ...]
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
"""Entries of `extra` that belong to the graph. The others describe the editor."""


def main() -> int:
    """Save the named workflows, or all."""
    names = sys.argv[1:] or [path.stem for path in sorted(WORKFLOWS.glob("*.json"))]
    with running(cache_dir() / "base") as server, open_editor(server) as page:
        for name in names:
            path = WORKFLOWS / f"{name}.json"
            write(path, resave(page, json.loads(path.read_text())), indent=1)
            write(WORKFLOWS / "api" / path.name, api_prompt(page), indent=2)
    return 0


def resave(page: Page, workflow: dict[str, Any]) -> dict[str, Any]:
    """Load a workflow and save it as the editor does, with the same view."""
    view = workflow["extra"]["ds"]
    page.evaluate("async workflow => { await app.loadGraphData(workflow) }", workflow)
    # As text: Playwright would convert undefined to null.
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
