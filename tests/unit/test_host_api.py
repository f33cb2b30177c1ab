"""The list of what the pack takes from ComfyUI is what its code takes, and a ComfyUI that lacks a
part of it is told what."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from nodes import host_api

NODES = Path(__file__).parents[2] / "nodes"
CODE = [(NODES / name).read_text() for name in ("host.py", "vae.py")]
HOST_MODULES = ("comfy", "folder_paths", "latent_preview", "server")


def imported(tree: ast.Module) -> dict[str, str]:
    """What names of ComfyUI's stand for: {"mm": "comfy.model_management", "args":
    "comfy.cli_args:args"}."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name] = alias.name
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}:{alias.name}"
    return {k: v for k, v in names.items() if v.startswith(HOST_MODULES)}


def entry_of(node: ast.expr, names: dict[str, str]) -> str | None:
    """ "module:name" of an expression such as mm.loaded_models, or None if it is not the host's."""
    text = ast.unparse(node)
    if not re.fullmatch(r"[\w.]+", text):
        return None
    for name in sorted(names, key=len, reverse=True):
        if text == name and ":" in names[name]:
            return names[name]
        if text.startswith(f"{name}."):
            rest = text[len(name) + 1 :]
            return names[name] + ("." if ":" in names[name] else ":") + rest
    return None


def uses(tree: ast.Module) -> Iterator[tuple[str, ast.Call | None]]:
    """Each use of the host's, outermost first, with its call."""
    names = imported(tree)
    inner: set[ast.expr] = set()
    for node in ast.walk(tree):
        call = node if isinstance(node, ast.Call) else None
        target = call.func if call else node
        if not isinstance(target, (ast.Attribute, ast.Name)) or target in inner:
            continue
        entry = entry_of(target, names)
        if entry is not None:
            inner.update(n for n in ast.walk(target) if isinstance(n, ast.expr))
            yield entry, call


def listed() -> dict[str, str]:
    """{"module:name": what stands in its brackets}"""
    entries = (*host_api.USED, *host_api.WHERE_THERE)
    return {entry.partition("(")[0]: entry.rstrip(")").partition("(")[2] for entry in entries}


def test_all_that_the_code_takes_is_listed() -> None:
    entries = listed()
    for use, call in (use for text in CODE for use in uses(ast.parse(text))):
        found = [entry for entry in entries if f"{entry}.".startswith(f"{use}.")]
        found += [entry for entry in entries if f"{use}.".startswith(f"{entry}.")]
        assert found, f"{use} is not listed"
        if call is not None and use in entries:
            given = [name for name in entries[use].split(", ") if name]
            assert len(call.args) <= given.count("_"), f"more arguments than listed for {use}"
            assert {keyword.arg for keyword in call.keywords} <= set(given), use


def test_all_that_is_listed_is_taken() -> None:
    taken = {use for text in CODE for use, _ in uses(ast.parse(text))}
    code = "".join(CODE)
    for entry in listed():
        name = entry.partition(":")[2]
        last = name.rpartition(".")[2]
        directly = any(f"{entry}.".startswith(f"{use}.") for use in taken)
        on_the_way = any(use.startswith(f"{entry}.") for use in taken)
        of_an_instance = name[0].isupper() and f".{last}(" in code
        assert directly or on_the_way or of_an_instance or f'"{last}"' in code, entry


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A module `host_stub` that a list may name."""
    module = ModuleType("host_stub")
    module.call = lambda x, *, keyword=1: (x, keyword)  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "host_stub", module)
    return SimpleNamespace(module=module, patch=monkeypatch)


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("host_stub:call(_, keyword)", None),
        ("host_stub:call(_)", None),
        ("host_stub:call", None),
        ("host_stub:call()", "takes other arguments (missing a required argument: 'x')"),
        ("host_stub:call(_, _)", "takes other arguments (too many positional arguments)"),
        ("host_stub:call(_, other)", "takes other arguments (got an unexpected keyword argument"),
        ("host_stub:gone(_)", "is not there"),
        ("host_stub.gone:call(_)", "is not there"),
    ],
)
def test_what_a_host_lacks_is_named(host: SimpleNamespace, entry: str, problem: str | None) -> None:
    host.patch.setattr(host_api, "USED", (entry,))
    host.patch.setattr(host_api, "WHERE_THERE", ())
    found = host_api.problems()
    if problem is None:
        assert found == []
    else:
        (line,) = found
        assert line.startswith(f"ComfyUI's {entry} {problem}")


def test_what_only_newer_hosts_have_may_be_missing_but_not_different(host: SimpleNamespace) -> None:
    host.patch.setattr(host_api, "USED", ())
    host.patch.setattr(host_api, "WHERE_THERE", ("host_stub:gone(_)", "host_stub:call(_, _)"))
    (line,) = host_api.problems()
    assert "host_stub:call(_, _) takes other arguments" in line
