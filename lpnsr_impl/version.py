"""Which version of the pack this is."""

import re
import subprocess
from pathlib import Path

PACK = Path(__file__).parents[1]


def pack_version() -> str:
    """Version in pyproject.toml, and the commit where there is one."""
    text = (PACK / "pyproject.toml").read_text(encoding="utf-8")
    (version,) = re.findall(r'^version = "(.+)"$', text, re.MULTILINE)
    return f"{version} (commit {commit()})"


def commit() -> str:
    """Commit of this pack, with "+" if there are changes on top; "unknown" outside of git."""
    try:
        if _git("rev-parse", "--show-prefix"):
            return "unknown"  # the pack lies inside another repository
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(PACK), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
