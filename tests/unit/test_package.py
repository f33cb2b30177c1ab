"""The package for the Comfy Registry: the files that git tracks, except those in .comfyignore."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

PACK = Path(__file__).parents[2]
LARGEST = 40_000_000  # maximum size of the package in bytes


def listed(*options: str) -> set[str]:
    git = ["git", "-C", str(PACK), "ls-files", "-z", *options]
    return set(subprocess.check_output(git, text=True).rstrip("\0").split("\0"))


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the contents of the package that comfy-cli builds."""
    if not (PACK / ".git").exists():
        pytest.skip("not a git repository, so tracked files are unknown")
    left_out = listed("--cached", "--ignored", f"--exclude-from={PACK / '.comfyignore'}")
    folder = tmp_path_factory.mktemp("package")
    for name in listed() - left_out:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PACK / name, target)
    return folder


def test_the_package_is_small_and_has_no_files_for_developers(package: Path) -> None:
    assert {path.name for path in package.iterdir()} == {
        ".comfyignore", "LICENSE", "README.md", "__init__.py", "docs", "js", "locales",
        "lpnsr_impl", "nodes", "pyproject.toml", "requirements.txt", "subgraphs", "workflows",
    }  # fmt: skip
    assert sum(path.stat().st_size for path in package.rglob("*")) < LARGEST


def test_the_package_can_upscale(package: Path, tmp_path: Path) -> None:
    Image.new("RGB", (4, 3), "teal").save(tmp_path / "x.png")
    command = [sys.executable, "-m", "lpnsr_impl", "upscale", "--steps", "1"]
    files = [str(tmp_path / "x.png"), str(tmp_path / "y.png")]
    subprocess.run([*command, *files], cwd=package, check=True)
    with Image.open(tmp_path / "y.png") as result:
        assert result.size == (16, 12)
