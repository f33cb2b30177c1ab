"""Write locales/en/nodeDefs.json from the node schemas, and list missing translations.

When an English text has changed, its translations are removed from zh and ja and printed.
tests/e2e/test_locales.py fails until such texts are translated again.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .server import PACK, Server, running

LOCALES = PACK / "locales"
TRANSLATIONS = ("zh", "ja")

Texts = dict[tuple[str, ...], str]
"""Texts by their keys, such as ("LPNSRSample", "inputs", "seed", "tooltip")."""


def main() -> int:
    """Write nodeDefs.json in all three languages. Returns 1 if a translation is missing."""
    before = read("en")
    with tempfile.TemporaryDirectory() as base, running(Path(base)) as server:
        now = node_texts(server)
    write("en", now)
    lacking = 0
    for language in TRANSLATIONS:
        old = read(language)
        fresh = keep_translations(now, before, old)
        write(language, fresh)
        for place in now.keys() - fresh.keys():
            lacking += 1
            print(f"{language} lacks {'.'.join(place)}\n  English: {now[place]}")
            if place in old:
                print(f"  was:     {before.get(place)}\n           {old[place]}")
    print(f"{len(now)} texts; {lacking} translations are missing.")
    return int(lacking > 0)


def keep_translations(now: Texts, before: Texts, old: Texts) -> Texts:
    """Keep translations of unchanged texts, and reuse them for equal texts under other keys.

    Args:
        now: English texts of the nodes.
        before: English texts that `old` was translated from.
        old: translations.
    """
    known = {before[place]: text for place, text in old.items() if place in before}
    own = {place: text for place, text in old.items() if before.get(place) == now.get(place)}
    fresh = {place: own.get(place) or known.get(english) for place, english in now.items()}
    return {place: text for place, text in fresh.items() if text}


def node_texts(server: Server) -> Texts:
    """Collect the texts of the pack's nodes, under the keys that ComfyUI's front end uses."""
    texts: Texts = {}
    for node, info in nodes_of_pack(server).items():
        texts[node, "display_name"] = info["display_name"]
        texts[node, "description"] = info["description"]
        for name, (_, options) in inputs_of(info).items():
            texts[node, "inputs", name, "name"] = name
            texts[node, "inputs", name, "tooltip"] = options["tooltip"]
        outputs = zip(info["output_name"], info["output_tooltips"], strict=True)
        for i, (name, tooltip) in enumerate(outputs):
            texts[node, "outputs", str(i), "name"] = name
            texts[node, "outputs", str(i), "tooltip"] = tooltip
    return texts


def nodes_of_pack(server: Server) -> dict[str, dict[str, Any]]:
    """Return the schemas of the pack's nodes, from ComfyUI's /object_info."""
    every = server.get("/object_info")
    ours = "custom_nodes.LPNSR"
    return {node: info for node, info in every.items() if info["python_module"] == ours}


def inputs_of(info: dict[str, Any]) -> dict[str, Any]:
    """Return required and optional inputs of a node in /object_info, {name: (type, options)}."""
    return {**info["input"].get("required", {}), **info["input"].get("optional", {})}


def read(language: str) -> Texts:
    """Read a language's nodeDefs.json. Returns an empty dict if the file does not exist."""
    path = LOCALES / language / "nodeDefs.json"
    return dict(_flat(json.loads(path.read_text("utf-8")))) if path.is_file() else {}


def _flat(tree: dict[str, Any], place: tuple[str, ...] = ()) -> Iterator[tuple[Any, str]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, (*place, key))
        else:
            yield (*place, key), value


def write(language: str, texts: Texts) -> None:
    """Write a language's nodeDefs.json."""
    tree: dict[str, Any] = {}
    for place, text in texts.items():
        branch = tree
        for key in place[:-1]:
            branch = branch.setdefault(key, {})
        branch[place[-1]] = text
    path = LOCALES / language / "nodeDefs.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree, ensure_ascii=False, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
