"""Model folders with symbolic links."""

import os
from pathlib import Path

import pytest

from lpnsr_impl.files.folders import weight_files
from tests.eventually import PATIENCE
from tests.limits import limit_time


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with two model files. Next to it is the folder "disk" with a third one."""
    for name in ("models/a.pth", "models/sub/b.pth", "disk/shared/c.safetensors"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "models"


def found(*folders: Path) -> list[str]:
    return [os.path.relpath(path, folders[0]) for path in weight_files(folders)]


def test_links_to_files_and_folders_are_followed(models: Path) -> None:
    (models / "d.ckpt").symlink_to(models.parent / "disk" / "shared" / "c.safetensors")
    (models / "elsewhere").symlink_to(models.parent / "disk")
    assert found(models) == ["a.pth", "d.ckpt", "elsewhere/shared/c.safetensors", "sub/b.pth"]


@pytest.mark.parametrize("target", ["/", ".", "..", "../models", "../..", "/proc/self/root"])
def test_a_link_to_a_parent_folder_is_not_followed(models: Path, target: str) -> None:
    (models / "sub" / "up").symlink_to(target)
    (models / "up").symlink_to(target)
    with limit_time(PATIENCE):
        assert found(models) == ["a.pth", "sub/b.pth"]


def test_a_linked_folder_may_link_back(models: Path) -> None:
    (models / "elsewhere").symlink_to(models.parent / "disk")
    (models.parent / "disk" / "back").symlink_to(models.parent)
    (models.parent / "disk" / "shared" / "again").symlink_to(models)
    with limit_time(PATIENCE):
        assert found(models) == ["a.pth", "elsewhere/shared/c.safetensors", "sub/b.pth"]


def test_no_folder_is_visited_twice(models: Path) -> None:
    (models / "sub" / "other").symlink_to(models.parent / "disk")
    (models / "z").symlink_to(models.parent / "disk" / "shared")
    assert found(models, models / "sub") == ["a.pth", "sub/b.pth", "sub/other/shared/c.safetensors"]
