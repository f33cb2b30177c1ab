"""Links in the Markdown pages lead to existing files and sections."""

import re
from pathlib import Path

import pytest

PACK = Path(__file__).parents[2]
LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]*))?\)")
MAX_README_LINES = 150


def pages() -> list[str]:
    folders = ("docs", "js", "locales", "lpnsr_impl", "tests")
    found = [page for folder in folders for page in sorted((PACK / folder).rglob("*.md"))]
    return ["README.md", *(page.relative_to(PACK).as_posix() for page in found)]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes from the page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", pages())
def test_links_lead_to_files_and_sections_that_exist(name: str) -> None:
    page = PACK / name
    # In all help pages, ComfyUI resolves the paths of pictures relative to js/docs.
    folder = PACK / "js" / "docs" if name.startswith("js/docs/") else page.parent
    broken: list[str] = []
    for path, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        target = folder / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(f"{path}#{anchor}")
    assert broken == []


def test_the_front_page_stays_short() -> None:
    assert len((PACK / "README.md").read_text(encoding="utf-8").splitlines()) <= MAX_README_LINES
