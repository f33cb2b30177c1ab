"""`make hosts`: print the tested versions of ComfyUI and its front ends, as the table in the
README.

Each complete `make test` writes its result to build/tested, one file per ComfyUI version.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "build" / "tested"
RENDERERS = {"classic": "canvas", "nodes2": "Nodes 2.0", "": "none: nodes over HTTP"}

Run = tuple[str, str]
"""Front end and renderer of a test. Both are empty for tests without a browser."""


def run_of(test: str) -> Run:
    """Return front end and renderer from a test's node id, e.g. "test_slider[nodes2-1.58.1]"."""
    renderer = re.search(r"[\[-](classic|nodes2)[]-]", test)
    front_end = re.search(r"[\[-](\d+\.\d+\.\d+)[]-]", test)
    return (front_end[1], renderer[1]) if front_end and renderer else ("", "")


def note(comfyui: str, outcomes: Iterable[tuple[Run, str]], about: dict[str, str]) -> None:
    """Write the results of a test run with one version of ComfyUI.

    Args:
        comfyui: version of ComfyUI.
        outcomes: for each test its front end and renderer, and "passed", "failed" or "skipped".
        about: versions of other packages.
    """
    counts: dict[Run, Counter[str]] = {}
    for run, outcome in outcomes:
        counts.setdefault(run, Counter())[outcome] += 1
    runs = [
        {"front_end": front_end, "renderer": renderer, **count}
        for (front_end, renderer), count in sorted(counts.items())
    ]
    FOLDER.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"comfyui": comfyui, **about, "runs": runs}, indent=1)
    (FOLDER / f"{comfyui}.json").write_text(text + "\n")


def table(hosts: Iterable[dict[str, Any]]) -> str:
    """Format results written by `note` as a Markdown table."""
    lines = [
        "| ComfyUI | PyTorch | front end | nodes drawn by | passed | failed |",
        "|---|---|---|---|---|---|",
    ]
    for host in sorted(hosts, key=lambda host: [int(part) for part in host["comfyui"].split(".")]):
        for run in host["runs"]:
            cells = [host["comfyui"], host["torch"], run["front_end"] or "none"]
            cells += [RENDERERS[run["renderer"]]]
            cells += [str(run.get(outcome, 0)) for outcome in ("passed", "failed")]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Print the table. Return 1 if there are no results yet."""
    files = sorted(FOLDER.glob("*.json"))
    if not files:
        print("There are no results of a complete run yet. Run `make test` first.", file=sys.stderr)
        return 1
    print(table(json.loads(file.read_text()) for file in files))
    return 0


if __name__ == "__main__":
    sys.exit(main())
