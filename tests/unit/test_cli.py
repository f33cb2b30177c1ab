"""Error messages of the command line."""

import sys

import pytest

from lpnsr_impl.cli import main
from lpnsr_impl.files import convert


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("convert", ["convert", "in.pth", "out.safetensors"]),
        ("blend", ["blend", "a.safetensors", "b.safetensors", "c.safetensors"]),
        ("doctor", ["doctor"]),
        ("download", ["download", "--folder", "x", "--upscale-models-folder", "x"]),
    ],
)
def test_a_missing_package_is_named_with_how_to_install_it(
    module: str,
    command: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, f"lpnsr_impl.files.{module}", None)
    assert main(command) == 1
    assert f"lpnsr_impl.files.{module}" in caplog.text
    assert "pip install torch -r requirements.txt" in caplog.text


@pytest.mark.parametrize("verbose", [False, True])
def test_an_error_has_a_traceback_only_with_verbose(
    verbose: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(convert, "convert", fail)
    command = ["convert", "in.pth", "out.safetensors", *(["--verbose"] if verbose else [])]
    assert main(command) == 1
    assert "mat1 and mat2 shapes cannot be multiplied" in caplog.text
    assert ("Traceback" in caplog.text) == verbose
    assert ("in fail" in caplog.text) == verbose
