"""Downloads from a local HTTP server that imitates Hugging Face and GitHub, including failures."""

import hashlib
import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from spandrel.architectures.SwinIR import SwinIR

from lpnsr_impl import cli, load_denoiser
from lpnsr_impl.files import released
from lpnsr_impl.files.download import DownloadError, download, require_consent
from lpnsr_impl.files.released import (
    CHOICES,
    PREDICTOR,
    PREDICTOR_V3,
    PRESETS,
    RELEASED,
    ReleasedFile,
)
from lpnsr_impl.files.whole import rename_new
from tests.file_server import GITHUB, HUB, File, FileServer, serving
from tests.limits import limit_file_size
from tests.small import autoencoder_weights, denoiser_weights, predictor_weights, unet_config

PACK = Path(__file__).parents[2]

AUTOENCODER, DENOISER, SWINIR = (
    replace(file, size=None, sha256=None)
    for file in (released.AUTOENCODER, released.DENOISER, released.SWINIR)
)
"""Released files without the published size and SHA-256, since the tests serve small files."""

RESSHIFT = f"{GITHUB}zsyOAOA/ResShift/releases/download/v2.0/"
SWINIR_RELEASE = f"{GITHUB}JingyunLiang/SwinIR/releases/download/v0.0/"


def pickled(weights: Any) -> bytes:
    file = io.BytesIO()
    torch.save(weights, file)
    return file.getvalue()


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    """Contents of small models that stand in for the released files, by file name."""
    torch.manual_seed(0)
    swinir = SwinIR(embed_dim=12, depths=[1], num_heads=[2], upscale=4, upsampler="nearest+conv")
    rsd = denoiser_weights(unet_config(in_channels=7))
    of_a_part = {
        "autoencoder": pickled(autoencoder_weights()),
        "denoiser": pickled(denoiser_weights()),
        "noise_predictor": pickled(predictor_weights()),
        "upscale_model": pickled({"params_ema": swinir.state_dict()}),
    }
    return {
        **{file.name: of_a_part[file.part] for file in RELEASED},
        released.PREDICTOR_V3.name: save(predictor_weights()),
        released.RSD_STUDENT.name: save(rsd, {"noise_mode": "concat"}),
    }


def published(file: ReleasedFile, content: bytes) -> ReleasedFile:
    """Return a copy of `file` whose published size and SHA-256 are those of `content`."""
    return replace(file, size=len(content), sha256=hashlib.sha256(content).hexdigest())


def path_of(server: FileServer, file: ReleasedFile, source: int = 0) -> str:
    return file.sources[source].url.removeprefix(server.url)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    with serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", f"{server.url}/hub")
        monkeypatch.setenv("LPNSR_DOWNLOAD_MIRROR", f"{server.url}/github/")
        yield server


@pytest.fixture
def denoiser(server: FileServer, contents: dict[str, bytes]) -> File:
    """ResShift's denoiser, served by the local stand-in for GitHub."""
    file = server.files[RESSHIFT + DENOISER.name] = File(contents[DENOISER.name])
    return file


@pytest.fixture
def predictor(server: FileServer, contents: dict[str, bytes]) -> File:
    """The noise predictor, served by the local stand-in for Hugging Face."""
    file = server.files[HUB + PREDICTOR.name] = File(contents[PREDICTOR.name])
    return file


class CancelledError(Exception):
    """Raised by the tests to cancel a download."""


def get(
    folder: Path, *files: ReleasedFile, tick: Callable[[int, int | None], Any] = lambda *_: None
) -> str:
    folders = {"lpnsr": [folder], "upscale_models": [folder]}
    return download(files, folders, lambda _name, done, total: tick(done, total))


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Download sources


def test_all_files_go_into_their_folders_under_their_own_names(
    server: FileServer, contents: dict[str, bytes], tmp_path: Path
) -> None:
    for file in RELEASED:
        server.files[path_of(server, file)] = File(contents[file.name])
    folders = {"lpnsr": [tmp_path / "a" / "lpnsr"], "upscale_models": [tmp_path / "b"]}
    files = [published(file, contents[file.name]) for file in RELEASED]
    report = download(files, folders)
    for file in files:
        folder = folders[file.folder][0]
        assert (folder / file.name).read_bytes() == contents[file.name]
        assert f"{file.name}: downloaded into {folder}, " in report
        assert f"SHA-256 {file.sha256}, licence {file.licence.name}, {file.licence.url}" in report
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == len(RELEASED)
    server.requests.clear()
    assert download(files, folders).count("with the published SHA-256") == len(RELEASED)
    assert server.requests == []


def test_the_second_source_is_used_where_the_first_has_no_such_file(
    server: FileServer, contents: dict[str, bytes], tmp_path: Path
) -> None:
    file = published(AUTOENCODER, contents[AUTOENCODER.name])
    server.files[RESSHIFT + file.name] = File(contents[file.name])
    report = get(tmp_path, file)
    assert (tmp_path / file.name).read_bytes() == contents[file.name]
    assert re.search(rf"\n  before that {server.url}{HUB}{file.name}: .*404", report)


def test_one_missing_file_does_not_stop_the_others(
    predictor: File, tmp_path: Path, server: FileServer
) -> None:
    with pytest.raises(DownloadError) as error:
        get(tmp_path, DENOISER, PREDICTOR)
    assert re.search(rf"{server.url}{RESSHIFT}{DENOISER.name}: .*404", str(error.value))
    assert f"{PREDICTOR.name}: downloaded" in str(error.value)
    assert names_in(tmp_path) == [PREDICTOR.name]


def test_without_a_network_the_error_says_how_to_get_the_file_by_hand(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("LPNSR_DOWNLOAD_MIRROR", "http://127.0.0.1:9")
    with pytest.raises(DownloadError) as error:
        get(tmp_path, AUTOENCODER)
    for part in (
        "autoencoder_vq_f4.pth could not be downloaded",
        "http://127.0.0.1:9/mirpri/LPNSR/resolve/main/autoencoder_vq_f4.pth: ",
        "http://127.0.0.1:9/zsyOAOA/ResShift/releases/download/v2.0/autoencoder_vq_f4.pth: ",
        "refused",
        "from https://huggingface.co/mirpri/LPNSR or "
        "https://github.com/zsyOAOA/ResShift/releases/tag/v2.0",
        f"put it into {tmp_path} under the name autoencoder_vq_f4.pth",
    ):
        assert part in str(error.value)


def test_the_folder_is_named_before_the_first_byte(
    server: FileServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with pytest.raises(DownloadError):
        get(tmp_path, DENOISER)  # the server has no such file
    assert f"{DENOISER.name}: downloading into {tmp_path}" in caplog.text


def test_consent_is_needed_for_non_commercial_files_alone() -> None:
    require_consent([PREDICTOR, PREDICTOR_V3, SWINIR], accepted=False)
    require_consent(RELEASED, accepted=True)
    with pytest.raises(ValueError, match="S-Lab, non-commercial, https://github"):
        require_consent([DENOISER, PREDICTOR], accepted=False)


# Broken connections


def test_a_broken_connection_gives_the_whole_file_or_an_error(
    denoiser: File, tmp_path: Path
) -> None:
    """A broken connection leaves the whole file or none: huggingface_hub before 1.0 gives up; later
    versions retry."""
    denoiser.cuts = [1_000_000]
    with suppress(DownloadError):
        get(tmp_path, DENOISER)
    assert [path.read_bytes() for path in tmp_path.iterdir()] in ([], [denoiser.content])


def test_a_stalled_download_is_cancelled_at_once_and_leaves_nothing(
    denoiser: File, tmp_path: Path
) -> None:
    denoiser.stall_at = 1_000_000
    last_tick: list[float] = []

    def cancel(*_: Any) -> None:
        last_tick.append(time.monotonic())
        if len(last_tick) == 5:
            raise CancelledError

    with pytest.raises(CancelledError):
        get(tmp_path, DENOISER, tick=cancel)
    assert time.monotonic() - last_tick[-1] < 5, "cancelling waited for the stalled server"
    assert names_in(tmp_path) == []
    denoiser.stall_at = None
    get(tmp_path, DENOISER)
    assert (tmp_path / DENOISER.name).read_bytes() == denoiser.content


# Wrong files


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"announced_size": 77}, "should be of size 77"),
        ({"announced_sha256": "5" * 64}, f"expected {'5' * 64}"),
        ({"status": 403}, "403"),
    ],
)
def test_a_wrong_answer_is_refused_and_the_next_source_tried(
    server: FileServer,
    contents: dict[str, bytes],
    tmp_path: Path,
    wrong: dict[str, Any],
    message: str,
) -> None:
    content = contents[DENOISER.name]
    server.files[HUB + DENOISER.name] = File(content, **wrong)
    with pytest.raises(DownloadError) as error:
        get(tmp_path, DENOISER)
    assert message in str(error.value)
    assert names_in(tmp_path) == []
    server.files[RESSHIFT + DENOISER.name] = File(content)
    get(tmp_path, DENOISER)
    assert (tmp_path / DENOISER.name).read_bytes() == content


@pytest.mark.parametrize(
    ("file", "release", "content", "message"),
    [
        (
            DENOISER,
            RESSHIFT,
            b"<!DOCTYPE html>" + b"Log in" * 99,
            f"{DENOISER.name} is a text page",
        ),
        (DENOISER, RESSHIFT, b"", f"{DENOISER.name} is empty"),
        (DENOISER, RESSHIFT, b"nonsense", f"{DENOISER.name} is not a plain file of tensors"),
        (AUTOENCODER, RESSHIFT, DENOISER, "looks like a denoiser, expected an autoencoder"),
        (SWINIR, SWINIR_RELEASE, DENOISER, "looks like a denoiser, expected an upscale model"),
        (DENOISER, RESSHIFT, SWINIR, "looks like an upscale model (SwinIR)"),
    ],
)
def test_without_a_known_sha256_the_content_is_checked(
    server: FileServer,
    contents: dict[str, bytes],
    tmp_path: Path,
    file: ReleasedFile,
    release: str,
    content: bytes | ReleasedFile,
    message: str,
) -> None:
    wrong = content if isinstance(content, bytes) else contents[content.name]
    server.files[release + file.name] = File(wrong)
    with pytest.raises(DownloadError) as error:
        get(tmp_path, file)
    assert message in str(error.value)
    assert names_in(tmp_path) == []


def test_a_file_with_another_sha256_than_the_published_one_is_refused(
    server: FileServer, contents: dict[str, bytes], tmp_path: Path
) -> None:
    right = contents[DENOISER.name]
    wrong = pickled({key: 2 * tensor for key, tensor in denoiser_weights().items()})
    assert len(wrong) == len(right)
    file = published(DENOISER, right)
    for source in range(len(file.sources)):
        server.files[path_of(server, file, source)] = File(wrong)
    with pytest.raises(DownloadError) as error:
        get(tmp_path, file)
    sha256 = hashlib.sha256(wrong).hexdigest()
    assert str(error.value).count(f"its SHA-256 is {sha256}, expected {file.sha256}") == 2
    assert names_in(tmp_path) == []


def test_the_published_sizes_and_sha256() -> None:
    known = {f.name: (f.size, f.sha256[:8]) for f in RELEASED if f.size and f.sha256}
    assert known == {
        "autoencoder_vq_f4.pth": (221_364_711, "e967eaa2"),
        "resshift_realsrx4_s4_v3.pth": (477_917_058, "878da888"),
        SWINIR.name: (142_473_939, "99adfa91"),
    }
    for file in RELEASED:
        assert file.sha256 is None or len(file.sha256) == 64
        assert all("latest" not in source.url for source in file.sources)


# Files of the user


def test_a_file_of_the_user_that_is_not_the_published_one_is_left_alone(
    server: FileServer, tmp_path: Path
) -> None:
    mine = tmp_path / released.AUTOENCODER.name
    mine.write_bytes(b"my own")
    with pytest.raises(DownloadError) as error:
        get(tmp_path, released.AUTOENCODER)
    assert hashlib.sha256(b"my own").hexdigest() in str(error.value)
    assert f"{released.AUTOENCODER.sha256}. The existing file was not changed" in str(error.value)
    assert mine.read_bytes() == b"my own"
    assert server.requests == []


def test_a_file_that_appears_during_the_download_is_left_alone(
    denoiser: File, tmp_path: Path
) -> None:
    mine = tmp_path / DENOISER.name
    denoiser.pause = 0.05
    report = get(tmp_path, DENOISER, tick=lambda *_: mine.write_bytes(b"my own"))
    assert report == f"{DENOISER.name}: already there, {mine}"
    assert mine.read_bytes() == b"my own"
    assert names_in(tmp_path) == [DENOISER.name]


@pytest.mark.parametrize("links", [True, False])
def test_a_rename_never_replaces_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no hard links on this disk")

    if not links:
        monkeypatch.setattr("os.link", refuse)
    part, target = tmp_path / "part", tmp_path / "target"
    part.write_bytes(b"new")
    target.write_bytes(b"my own")
    with pytest.raises(FileExistsError):
        rename_new(part, target)
    assert (part.read_bytes(), target.read_bytes()) == (b"new", b"my own")
    target.unlink()
    rename_new(part, target)
    assert target.read_bytes() == b"new"
    assert names_in(tmp_path) == ["target"]


@pytest.mark.parametrize("name", ["noise_predictor.pth", "below/noise_predictor.pth"])
def test_a_file_in_any_folder_or_subfolder_is_not_downloaded_again(
    server: FileServer, contents: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    path = tmp_path / "second" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(contents[PREDICTOR.name])
    folders = [tmp_path / "first", tmp_path / "second"]
    report = download([PREDICTOR], {"lpnsr": folders, "upscale_models": []})
    assert report == f"{PREDICTOR.name}: already there, {path}"
    assert server.requests == []
    assert not folders[0].exists()


# Full disks and unusable folders


def test_a_full_disk_is_named_and_nothing_is_left(denoiser: File, tmp_path: Path) -> None:
    with limit_file_size(1_000_000), pytest.raises(DownloadError, match="File too large"):
        get(tmp_path, DENOISER)
    assert names_in(tmp_path) == []


def test_too_little_space_is_noticed_before_the_download(predictor: File, tmp_path: Path) -> None:
    predictor.announced_size = 10**18  # more than any disk has
    with pytest.raises(DownloadError, match=r"needs 1000000000000\.0 MB, and .* MB free"):
        get(tmp_path, PREDICTOR)
    assert names_in(tmp_path) == []


def test_a_folder_that_can_not_be_created_is_named(denoiser: File, tmp_path: Path) -> None:
    (tmp_path / "lpnsr").write_text("not a folder")
    with pytest.raises(DownloadError, match=r"can't be written into .*lpnsr"):
        get(tmp_path / "lpnsr", DENOISER)


# Command line


def test_the_command_line_downloads_a_preset(
    server: FileServer,
    contents: dict[str, bytes],
    denoiser: File,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = tuple(published(f, contents[f.name]) for f in CHOICES["ResShift"])
    monkeypatch.setitem(CHOICES, "ResShift", files)
    server.files[RESSHIFT + AUTOENCODER.name] = File(contents[AUTOENCODER.name])
    command = ["download", "ResShift", "--folder", str(tmp_path)]
    assert cli.main(command) == 1  # fails: no consent to the licences
    assert names_in(tmp_path) == []
    assert cli.main([*command, "--accept-licences"]) == 0
    assert names_in(tmp_path) == [AUTOENCODER.name, DENOISER.name]
    load_denoiser(tmp_path / DENOISER.name)


def test_the_command_line_downloads_into_comfyui_only_where_its_models_folder_exists(
    denoiser: File,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The default target is the models folder next to custom_nodes. It does not exist if several
    installations share custom_nodes; then --folder is required."""
    monkeypatch.setattr(cli, "PACK", tmp_path / "custom_nodes" / "LPNSR")
    monkeypatch.setitem(CHOICES, DENOISER.name, (DENOISER,))
    command = ["download", DENOISER.name, "--accept-licences"]
    assert cli.main(command) == 1
    assert "--folder" in caplog.text
    assert names_in(tmp_path) == []
    (tmp_path / "models").mkdir()
    assert cli.main(command) == 0
    assert (tmp_path / "models" / "lpnsr" / DENOISER.name).read_bytes() == denoiser.content


def test_the_command_line_needs_a_folder_outside_of_comfyui(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert cli.main(["download", SWINIR.name, "--folder", str(tmp_path)]) == 1
    assert "--upscale-models-folder" in caplog.text


def test_nothing_of_the_network_is_imported_before_a_download() -> None:
    code = (
        "import sys, lpnsr_impl.cli, lpnsr_impl.files.download, lpnsr_impl.files.doctor\n"
        "sys.exit('huggingface_hub' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=PACK).returncode == 0


# Docs and workflows agree with the table of released files


def rows_of(text: str) -> dict[str, str]:
    """Return the rows of Markdown tables that list files, by file name."""
    return {row.split("`")[1]: row for row in text.splitlines() if row.startswith("| `")}


def check_row(row: str, file: ReleasedFile) -> None:
    assert f"`models/{file.folder}`" in row
    pages = re.findall(r"\((https://[^)]+)\)", row)
    assert pages == [source.page for source in file.sources]
    assert row.endswith(f" {file.licence.name} |")


def test_the_docs_agree_with_the_table_of_released_files() -> None:
    rows = rows_of((PACK / "docs" / "models.md").read_text(encoding="utf-8"))
    for file in RELEASED:
        check_row(rows[file.name], file)
        assert f"| {file.purpose} |" in rows[file.name]


@pytest.mark.parametrize("preset", ["PreSet-A", "PreSet-B"])
def test_workflows_agree_with_the_table_of_released_files(
    monkeypatch: pytest.MonkeyPatch, preset: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://huggingface.co")
    needed = {file.name: file for file in PRESETS[preset]}
    workflow = json.loads((PACK / "workflows" / f"LPNSR {preset}.json").read_text(encoding="utf-8"))
    models = [m for n in workflow["nodes"] for m in n["properties"].get("models", [])]
    assert {model["name"] for model in models} == needed.keys()
    for model in models:
        file = needed[model["name"]]
        directory, url = file.folder, file.sources[0].url
        assert model == {"name": file.name, "url": url, "directory": directory}
    chosen = [v for n in workflow["nodes"] for v in n["widgets_values"]]
    assert needed.keys() <= {value for value in chosen if isinstance(value, str)}
    (note,) = (n["widgets_values"][0] for n in workflow["nodes"] if n["type"] == "MarkdownNote")
    rows = rows_of(note)
    assert rows.keys() == needed.keys()
    for name, row in rows.items():
        check_row(row, needed[name])
