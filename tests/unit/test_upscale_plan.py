"""Selection of the pictures in a folder, and names of their results."""

import logging
from pathlib import Path

import pytest

from lpnsr_impl.jobs.upscale.folders import LocalFolder
from lpnsr_impl.jobs.upscale.formats import RECORDS, record_name, result_name
from lpnsr_impl.jobs.upscale.plan import make_plan


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "in"
    make(source, "a.png", "b.jpg", "sub/c.png")
    return source


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def results(source: Path, format_name: str = "same") -> dict[str, str]:
    """Return the name of each picture's result, by picture name."""
    plan = make_plan(str(source), str(source.parent / "out"), format_name)
    return {item.name: item.result for item in plan.items}


def test_results_keep_their_suffix_where_it_fits() -> None:
    kept = {"a.JPG": "a.JPG", "a.jpeg": "a.jpeg", "a.tiff": "a.tiff", "a.avif": "a.avif"}
    changed = {"b/a.gif": "b/a.png", "a.HEIC": "a.png"}
    assert {name: result_name(name, "same") for name in kept | changed} == kept | changed
    assert result_name("x/a.jpeg", "jpg") == "x/a.jpeg"
    assert result_name("x/a.b.png", "jpg") == "x/a.b.jpg"


def test_other_files_are_left_out_and_counted(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(folder, "notes.txt", "x.heic", "x.avif")
    (folder / "again").symlink_to(folder)
    with caplog.at_level(logging.INFO):
        assert set(results(folder)) == {"a.png", "b.jpg", "sub/c.png", "x.heic", "x.avif"}
    assert "again is a link to a folder" in caplog.text
    assert "1 files in" in caplog.text


def test_pictures_of_one_result_are_refused(folder: Path) -> None:
    make(folder, "a.jpg")
    with pytest.raises(ValueError, match=r"a\.jpg and a\.png \(a\.png\)"):
        results(folder, "png")
    assert len(results(folder)) == 4


E_NFC, E_NFD = "\u00e9", "e\u0301"
SIMILAR = ["a.png", "A.PNG", f"{E_NFC}.png", f"{E_NFD}.png"]


@pytest.mark.parametrize("format_name", ["same", "webp"])
def test_similar_names_have_distinct_results(folder: Path, format_name: str) -> None:
    names = [*SIMILAR, "r2.200.png", "r2.300.png", "dots...png", "dots..png", "trip./a.png"]
    make(folder, *names)
    if LocalFolder(folder).ignores_case():
        pytest.skip("this file system ignores case")
    of_name = results(folder, format_name)
    assert set(names) <= set(of_name)
    assert len(set(of_name.values())) == len(of_name)


@pytest.mark.parametrize(
    "names", [SIMILAR[:2], SIMILAR[2:], ["trip./x.png", "trip/x.png"]], ids=["case", "é", "dots"]
)
def test_similar_names_are_refused_where_they_are_one_file(
    folder: Path, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(folder, *names)
    if LocalFolder(folder).ignores_case():
        pytest.skip("this file system ignores case")
    monkeypatch.setattr(LocalFolder, "ignores_case", lambda self: True)
    with pytest.raises(ValueError, match="would be the same file") as error:
        results(folder)
    assert all(name in str(error.value) for name in names)


def test_whether_case_is_ignored_is_found_out(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    assert LocalFolder(tmp_path / "no" / "folder").ignores_case() == (tmp_path / "X").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_names_that_are_too_long_fail_alone(folder: Path) -> None:
    longest = "\u00e9" * 125 + "x.png"  # a name of 255 bytes
    make(folder, longest)
    plan = make_plan(str(folder), str(folder.parent / "out"), "webp")
    assert list(plan.problems) == [longest]
    assert "more than 255 bytes" in plan.problems[longest]
    assert len(plan.items) == 3
    assert longest in results(folder), "the name is not too long with its own suffix"
    with pytest.raises(ValueError, match="more than 255 bytes"):
        make_plan(str(folder / longest), str(folder.parent / "out"), "webp")


def test_a_spare_name_that_is_taken_or_too_long_is_not_used(folder: Path) -> None:
    make(folder, "b.jpg.png", "x" * 251 + ".bmp")
    plan = make_plan(str(folder), str(folder.parent / "out"), "same")
    spares = {item.name: item.spare for item in plan.items}
    assert set(spares.values()) == {None}


@pytest.mark.parametrize(
    ("out", "format_name", "message"),
    [
        ("in", "same", "would overwrite the picture a.png"),
        ("in/", "webp", "would be inside .*/in, "),
        ("in/a.png", "same", "is a file, expected a folder"),
        ("in/sub/..", "same", "would overwrite"),
    ],
)
def test_results_never_become_inputs(
    folder: Path, out: str, format_name: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_plan(str(folder), f"{folder.parent}/{out}", format_name)


def test_a_result_never_overwrites_an_input_behind_a_link(folder: Path, tmp_path: Path) -> None:
    make(tmp_path / "out", "z.png")
    (folder / "z.png").symlink_to(tmp_path / "out" / "z.png")
    with pytest.raises(ValueError, match=r"overwrite the picture z\.png"):
        results(folder)


def test_results_of_other_jobs_are_no_inputs(folder: Path) -> None:
    make(folder, "sub/x4/a.png", f"sub/x4/{record_name('a.png')}", "sub/x4/d.png")
    assert RECORDS in record_name("a.png")
    assert set(results(folder)) == {"a.png", "b.jpg", "sub/c.png", "sub/x4/d.png"}
    assert set(results(folder / "sub" / "x4")) == {"a.png", "d.png"}, (
        "expected results to be inputs if the source is their own folder"
    )


@pytest.mark.parametrize(
    ("out", "format_name", "message"),
    [
        ("x.gif", "same", "expected a file name ending in one of"),
        ("r2.300", "same", "expected a file name ending in one of"),
        ("x.png", "jpg", "contradicts --format jpg"),
    ],
)
def test_names_of_single_results(folder: Path, out: str, format_name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_plan(str(folder / "a.png"), str(folder.parent / out), format_name)


def test_a_missing_or_empty_source_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        results(tmp_path / "no")
    make(tmp_path, "in/notes.txt")
    with pytest.raises(ValueError, match="has no pictures"):
        results(tmp_path / "in")
