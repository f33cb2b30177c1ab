"""Dependencies in `lpnsr_impl` point one way: each subpackage imports only those that precede it in
`ROOMS`, and never ComfyUI."""

import ast
from pathlib import Path

import pytest

CORE = Path(__file__).parents[2] / "lpnsr_impl"
ROOMS = ["method", "pictures", "models", "accelerate", "files", "engine", "jobs"]
SHARED = {"config", "main_memory", "version"}
"""Modules that all subpackages may import. They import no subpackage."""


def imported(path: Path) -> set[str]:
    """Return the subpackages and modules of `lpnsr_impl` that a module imports."""
    package = path.relative_to(CORE.parent).parts[:-1]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("comfy") for alias in node.names), path
        if not isinstance(node, ast.ImportFrom):
            continue
        if not node.level:
            assert not (node.module or "").startswith(("comfy", "folder_paths")), path
            continue
        base = package[: len(package) - node.level + 1]
        target = (*base, *(node.module or "").split(".")) if node.module else base
        names |= {target[1]} if len(target) > 1 else {alias.name for alias in node.names}
    return names


@pytest.mark.parametrize("room", [*ROOMS, *sorted(SHARED)])
def test_a_room_uses_those_before_it(room: str) -> None:
    folder = CORE / room
    modules = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    allowed = {*ROOMS[: ROOMS.index(room) + 1], *SHARED} if room in ROOMS else SHARED
    assert modules
    assert {m.name: extra for m in modules if (extra := imported(m) - allowed)} == {}


def test_every_module_is_in_a_room_or_shared() -> None:
    beside = {path.stem for path in CORE.glob("*.py")} - {"__init__", "__main__", "cli"}
    assert beside == SHARED
