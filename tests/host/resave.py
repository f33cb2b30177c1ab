"""Save shipped workflows again as the editor does, with what their nodes have gained since, and
their twins in API format.

python -m tests.host.resave ["LPNSR quick start" ...]
"""

import json
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from .browser import api_prompt, opened
from .install import cache_dir
from .server import PACK, running

WORKFLOWS = PACK / "workflows"
EXTRA = ("ds", "linkExtensions", "reroutes")
"""What of `extra` belongs to the graph, and not to the one who saved it."""


def main() -> int:
    """Save the named workflows, or all."""
    names = sys.argv[1:] or [path.stem for path in sorted(WORKFLOWS.glob("*.json"))]
    with running(cache_dir() / "base") as server, opened(server) as page:
        for name in names:
            path = WORKFLOWS / f"{name}.json"
            write(path, saved(page, json.loads(path.read_text())), indent=1)
            write(WORKFLOWS / "api" / path.name, api_prompt(page), indent=2)
    return 0


def saved(page: Page, workflow: dict[str, Any]) -> dict[str, Any]:
    """A workflow as the editor saves it; where it is looked at stays as it was."""
    view = workflow["extra"]["ds"]
    page.evaluate("async workflow => { await app.loadGraphData(workflow) }", workflow)
    # as text, since Playwright would make null of what is undefined
    result = json.loads(page.evaluate("() => JSON.stringify(app.graph.serialize())"))
    del result["id"]
    result["extra"] = {**{k: v for k, v in result["extra"].items() if k in EXTRA}, "ds": view}
    return result


def write(path: Path, data: dict[str, Any], indent: int) -> None:
    """JSON in the form of the files that are there."""
    path.write_text(json.dumps(data, indent=indent, ensure_ascii=False) + "\n")
    print(path)


if __name__ == "__main__":
    sys.exit(main())
