"""Version and commit of this pack."""

import re
import subprocess
from pathlib import Path

PACK = Path(__file__).parents[1]


def pack_version() -> str:
    """Return version and commit of this pack, e.g. "1.0.0 (commit 0123456789ab)"."""
    text = (PACK / "pyproject.toml").read_text(encoding="utf-8")
    (version,) = re.findall(r'^version = "(.+)"$', text, re.MULTILINE)
    return f"{version} (commit {commit()})"


def commit() -> str:
    """Return the commit of this pack, followed by "+" if there are uncommitted changes.

    The result is "unknown" if this pack is not a git repository.
    """
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
