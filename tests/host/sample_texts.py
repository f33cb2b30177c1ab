"""Print a random sample of the texts in the code, for review by someone who has not seen the code.

`python -m tests.host.sample_texts SEED` prints 40 docstrings, 20 comments, 20 messages and 10
tooltips, with file and line. `random.Random(SEED)` draws them without replacement; all texts of a
kind are equally likely.

Kinds of texts:
    docstring: of modules, classes and functions, and string statements below constants.
    comment: in Python and JavaScript; consecutive lines are one comment. Directives for tools
        (noqa, pyright, fmt) do not count.
    message: of exceptions, log lines and progress texts.
    tooltip: of inputs and outputs, and descriptions of nodes.
"""

import argparse
import ast
import io
import random
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PACK = Path(__file__).parents[2]
FOLDERS = ("lpnsr_impl", "nodes", "js", "tests")
COUNTS = {"docstring": 40, "comment": 20, "message": 20, "tooltip": 10}
MESSAGE_METHODS = {"critical", "debug", "error", "exception", "info", "warning", "say"}
DIRECTIVE = re.compile(r"#\s*(noqa|pyright|fmt|type|ruff)\b")
JS_COMMENT = re.compile(r"/\*.*?\*/|(?:^[ \t]*//[^\n]*\n)+|(?<=[;{},] )//[^\n]*", re.S | re.M)

Text = tuple[int, str, str]
"""Line number, kind and text of a docstring, comment, message or tooltip."""


def python_texts(source: str) -> Iterator[Text]:
    """Find all texts of a Python module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            if isinstance(node.value.value, str):
                yield node.lineno, "docstring", node.value.value
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            yield from _as_texts("message", node.exc.args[:1])
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute) and node.func.attr in MESSAGE_METHODS:
                yield from _as_texts("message", node.args[:1])
            texts = [k.value for k in node.keywords if k.arg in ("tooltip", "description")]
            yield from _as_texts("tooltip", texts)
    yield from python_comments(source)


def _as_texts(kind: str, nodes: list[ast.expr]) -> Iterator[Text]:
    """Yield a text of the given kind for each expression that contains a literal or an f-string."""
    for node in nodes:
        if any(isinstance(part, ast.Constant | ast.JoinedStr) for part in ast.walk(node)):
            text = node.value if isinstance(node, ast.Constant) else ast.unparse(node)
            yield node.lineno, kind, str(text)


def python_comments(source: str) -> Iterator[Text]:
    """Find the comments of a Python module."""
    lines: list[str] = []
    first = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or DIRECTIVE.match(token.string):
            continue
        row = token.start[0]
        alone = token.line.lstrip().startswith("#")
        if lines and not (alone and row == last + 1):
            yield first, "comment", "\n".join(lines)
            lines = []
        first = first if lines else row
        lines.append(token.string if alone else token.line.strip())
        last = row
    if lines:
        yield first, "comment", "\n".join(lines)


def js_comments(source: str) -> Iterator[Text]:
    """Find the comments of a JavaScript module."""
    for match in JS_COMMENT.finditer(source):
        yield source.count("\n", 0, match.start()) + 1, "comment", match.group()


def all_texts() -> dict[str, list[tuple[str, int, str]]]:
    """Find the texts of each kind, with file and line."""
    found: dict[str, list[tuple[str, int, str]]] = defaultdict(list)
    for path in sorted(p for folder in FOLDERS for p in (PACK / folder).rglob("*.[pj][ys]")):
        source = path.read_text(encoding="utf-8")
        texts = python_texts(source) if path.suffix == ".py" else js_comments(source)
        for line, kind, text in texts:
            found[kind].append((path.relative_to(PACK).as_posix(), line, text))
    return found


def main() -> None:
    """Print a sample."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("seed", type=int)
    rng = random.Random(parser.parse_args().seed)
    found = all_texts()
    for kind, count in COUNTS.items():
        print(f"\n# {kind}s, {count} of {len(found[kind])}")
        for path, line, text in rng.sample(sorted(found[kind]), count):
            print(f"\n{path}:{line}\n{text.strip()}")


if __name__ == "__main__":
    main()
