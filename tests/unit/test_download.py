"""Downloads over real sockets, from a server that breaks, stalls and lies as real ones do."""

import hashlib
import io
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from spandrel.architectures.SwinIR import SwinIR

from lpnsr_impl import load_denoiser
from lpnsr_impl.cli import main
from lpnsr_impl.files import released, transfer
from lpnsr_impl.files.download import (
    RECORD,
    DownloadError,
    download,
    refused_files,
    require_consent,
)
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
from tests.limits import files_of_at_most
from tests.small import autoencoder_weights, denoiser_weights, predictor_weights, unet_config

PACK = Path(__file__).parents[2]

AUTOENCODER, DENOISER, SWINIR = (
    replace(file, size=None, sha256=None)
    for file in (released.AUTOENCODER, released.DENOISER, released.SWINIR)
)
"""As they were if nobody had told their SHA-256: those of the tests are small."""

RESSHIFT = f"{GITHUB}zsyOAOA/ResShift/releases/download/v2.0/"
SWINIR_RELEASE = f"{GITHUB}JingyunLiang/SwinIR/releases/download/v0.0/"
DENOISER_PATH = RESSHIFT + DENOISER.name


def pickled(weights: Any) -> bytes:
    file = io.BytesIO()
    torch.save(weights, file)
    return file.getvalue()


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    """Small files of the right kinds, by the names they are kept under."""
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


def known(file: ReleasedFile, content: bytes) -> ReleasedFile:
    """The file as if this content were the published one."""
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
    """ResShift's denoiser, as the server has it."""
    file = server.files[DENOISER_PATH] = File(contents[DENOISER.name])
    return file


@pytest.fixture
def predictor(server: FileServer, contents: dict[str, bytes]) -> File:
    """The noise predictor, as the hub has it."""
    file = server.files[HUB + PREDICTOR.name] = File(contents[PREDICTOR.name])
    return file


def go_on(*_: Any) -> None:
    """Watches nothing."""


class CancelledError(Exception):
    """What the tests' `watch` raises to stop."""


def get(folder: Path, *files: Any, watch: transfer.Watch = go_on) -> str:
    folders = {"lpnsr": [folder], "upscale_models": [folder]}
    return download(files, folders, lambda _name, done, total: watch(done, total))


def left(folder: Path) -> list[str]:
    """Names of what is in a folder, the lock aside."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


# What is got, and from where


def test_all_files_come_into_their_folders_under_their_own_names(
    server: FileServer, contents: dict[str, bytes], tmp_path: Path
) -> None:
    for file in RELEASED:
        server.files[path_of(server, file)] = File(contents[file.name])
    folders = {"lpnsr": [tmp_path / "a" / "lpnsr"], "upscale_models": [tmp_path / "b"]}
    report = download([known(f, contents[f.name]) for f in RELEASED], folders, go_on)
    for file in RELEASED:
        content = (folders[file.folder][0] / file.name).read_bytes()
        assert content == contents[file.name]
        record = json.loads((folders[file.folder][0] / RECORD).read_text())[file.name]
        assert record["sha256"] == hashlib.sha256(content).hexdigest()
        assert record["size"] == len(content)
        assert record["url"].startswith(server.url)
        assert f"{file.name}: downloaded into {folders[file.folder][0]}" in report
    assert not list(tmp_path.rglob("*.part"))


def test_a_second_run_asks_for_nothing(
    server: FileServer, denoiser: File, predictor: File, tmp_path: Path
) -> None:
    get(tmp_path, DENOISER, PREDICTOR)
    server.requests.clear()
    report = get(tmp_path, DENOISER, PREDICTOR)
    assert report.count("is there, with the SHA-256 recorded when it was downloaded") == 2
    assert server.requests == []


def test_the_second_source_is_used_where_the_first_has_no_such_file(
    server: FileServer, contents: dict[str, bytes], tmp_path: Path
) -> None:
    file = known(AUTOENCODER, contents[AUTOENCODER.name])
    server.files[RESSHIFT + file.name] = File(contents[file.name])
    report = get(tmp_path, file)
    assert (tmp_path / file.name).read_bytes() == contents[file.name]
    assert f"\n  before that {server.url}{HUB}{file.name}: 404" in report


def test_one_missing_file_does_not_keep_the_others_away(
    server: FileServer, predictor: File, tmp_path: Path
) -> None:
    with pytest.raises(DownloadError) as error:
        get(tmp_path, DENOISER, PREDICTOR)
    assert f"{server.url}{DENOISER_PATH}: 404" in str(error.value)
    assert f"{PREDICTOR.name}: downloaded" in str(error.value)
    assert (tmp_path / PREDICTOR.name).is_file()


def test_without_network_the_error_says_what_to_fetch_from_where_and_where_to_put_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("LPNSR_DOWNLOAD_MIRROR", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(DownloadError) as error:
        get(tmp_path, AUTOENCODER)
    assert time.monotonic() - started < 10
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


def test_consent_is_asked_for_non_commercial_files_alone() -> None:
    require_consent([PREDICTOR, PREDICTOR_V3, SWINIR], accepted=False)
    require_consent(RELEASED, accepted=True)
    with pytest.raises(ValueError, match="S-Lab, non-commercial, https://github"):
        require_consent([DENOISER, PREDICTOR], accepted=False)


# Broken connections


def test_a_broken_connection_is_gone_on_with(
    server: FileServer, denoiser: File, contents: dict[str, bytes], tmp_path: Path
) -> None:
    denoiser.cuts = [1_000_000, 700_000]
    get(tmp_path, DENOISER)
    assert (tmp_path / DENOISER.name).read_bytes() == denoiser.content
    first, *later = server.gets(DENOISER.name)
    assert first is None
    starts = [int(span.removeprefix("bytes=").removesuffix("-")) for span in later]
    assert len(starts) == 2
    assert 900_000 < starts[0] <= 1_000_000 < 1_500_000 < starts[1] <= 1_700_000


def test_a_stopped_download_goes_on_in_the_next_run(
    server: FileServer, predictor: File, tmp_path: Path
) -> None:
    def stop(done: int, total: int | None) -> None:
        if done > 1_000_000:
            raise CancelledError

    predictor.pause = 0.005
    with pytest.raises(CancelledError):
        get(tmp_path, PREDICTOR, watch=stop)
    (part,) = left(tmp_path)
    assert part.startswith("noise_predictor.pth.")
    assert part.endswith(".part")
    have = (tmp_path / part).stat().st_size
    assert have > 1_000_000
    server.requests.clear()
    get(tmp_path, PREDICTOR)
    assert (tmp_path / PREDICTOR.name).read_bytes() == predictor.content
    assert server.gets(PREDICTOR.name)[-1] == f"bytes={have}-"
    assert left(tmp_path) == [RECORD, PREDICTOR.name]


def test_a_stalled_download_is_stopped_at_once(denoiser: File, tmp_path: Path) -> None:
    denoiser.stall_at = 1_000_000
    stalled: list[float] = []

    def stop(done: int, total: int | None) -> None:
        if done > 900_000:
            stalled.append(time.monotonic())
        if stalled and time.monotonic() - stalled[0] > 0.5:
            raise CancelledError

    with pytest.raises(CancelledError):
        get(tmp_path, DENOISER, watch=stop)
    assert time.monotonic() - stalled[0] < 10, "it does not wait for the server"
    denoiser.stall_at = None
    get(tmp_path, DENOISER)
    assert (tmp_path / DENOISER.name).read_bytes() == denoiser.content


def test_a_server_that_can_only_send_whole_files_does_so(denoiser: File, tmp_path: Path) -> None:
    denoiser.ranges, denoiser.cuts = False, [1_000_000]
    get(tmp_path, DENOISER)
    assert (tmp_path / DENOISER.name).read_bytes() == denoiser.content


@pytest.mark.parametrize("ranges", [True, False])
def test_a_server_that_never_gets_further_is_given_up(
    denoiser: File, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranges: bool
) -> None:
    monkeypatch.setattr(transfer, "_MOST_FAILURES", 2)
    denoiser.ranges, denoiser.length, denoiser.etag = ranges, 10_000_000, False
    with pytest.raises(DownloadError, match=r"Running this again goes on"):
        get(tmp_path, DENOISER)
    assert not (tmp_path / DENOISER.name).exists()


@pytest.mark.parametrize("when", ["while it comes", "between two runs"])
def test_parts_of_different_contents_are_never_mixed(
    denoiser: File, tmp_path: Path, when: str
) -> None:
    old, new = denoiser.content, pickled({k: 2 * v for k, v in denoiser_weights().items()})
    assert len(new) == len(old)

    def change(done: int, total: int | None) -> None:
        if done > 500_000:
            denoiser.content = new
            if when == "between two runs":
                raise CancelledError

    denoiser.cuts, denoiser.pause = [1_500_000], 0.005
    if when == "between two runs":
        with pytest.raises(CancelledError):
            get(tmp_path, DENOISER, watch=change)
        change = go_on
    get(tmp_path, DENOISER, watch=change)
    assert (tmp_path / DENOISER.name).read_bytes() == new


def test_a_busy_server_is_asked_again(server: FileServer, denoiser: File, tmp_path: Path) -> None:
    denoiser.statuses = [503]
    get(tmp_path, DENOISER)
    assert server.gets(DENOISER.name) == [None, None]


# Wrong files


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"announced_size": 77}, "bytes, expected 77"),
        ({"announced_sha256": "5" * 64}, f"announced was {'5' * 64}"),
        ({"content_type": "text/html; charset=utf-8"}, "a web page came instead of the file"),
        ({"content": b"<!DOCTYPE html>" + b"Log in" * 99}, "is a text page"),
        ({"content": b""}, "is empty"),
        ({"content": b"nonsense"}, "is no plain file of tensors"),
        ({"statuses": [403]}, "403 Forbidden"),
    ],
)
def test_what_is_no_such_file_is_refused_and_the_next_source_tried(
    server: FileServer,
    contents: dict[str, bytes],
    tmp_path: Path,
    wrong: dict[str, Any],
    message: str,
) -> None:
    content = contents[DENOISER.name]
    server.files[HUB + DENOISER.name] = File(**{"content": content, **wrong})
    with pytest.raises(DownloadError) as error:
        get(tmp_path, DENOISER)
    assert message in str(error.value)
    assert left(tmp_path) == []
    server.files[HUB + DENOISER.name] = File(**{"content": content, **wrong})
    server.files[RESSHIFT + DENOISER.name] = File(content)
    get(tmp_path, DENOISER)
    assert (tmp_path / DENOISER.name).read_bytes() == content


@pytest.mark.parametrize(
    ("file", "release", "wrong", "message"),
    [
        (AUTOENCODER, RESSHIFT, DENOISER, "it looks like a denoiser, expected an autoencoder"),
        (SWINIR, SWINIR_RELEASE, DENOISER, "looks like a denoiser, expected an upscale model"),
        (DENOISER, RESSHIFT, SWINIR, "it looks like an upscale model (SwinIR)"),
    ],
)
def test_a_file_of_another_kind_is_refused(
    server: FileServer,
    contents: dict[str, bytes],
    tmp_path: Path,
    file: Any,
    release: str,
    wrong: Any,
    message: str,
) -> None:
    server.files[release + file.name] = File(contents[wrong.name])
    with pytest.raises(DownloadError) as error:
        get(tmp_path, file)
    assert message in str(error.value)
    assert left(tmp_path) == []


def test_another_content_than_at_the_first_download_is_refused(
    denoiser: File, tmp_path: Path
) -> None:
    get(tmp_path, DENOISER)
    (tmp_path / DENOISER.name).unlink()
    denoiser.content = pickled({k: 2 * v for k, v in denoiser_weights().items()})
    with pytest.raises(DownloadError, match="but an earlier download had"):
        get(tmp_path, DENOISER)
    assert left(tmp_path) == [RECORD]
    (tmp_path / RECORD).write_text("{ damaged")
    get(tmp_path, DENOISER)
    assert (tmp_path / DENOISER.name).read_bytes() == denoiser.content


# Published contents


def test_another_content_than_the_published_one_is_refused_and_kept_aside(
    server: FileServer, contents: dict[str, bytes], tmp_path: Path
) -> None:
    right = contents[DENOISER.name]
    wrong = pickled({k: 2 * v for k, v in denoiser_weights().items()})
    file = known(DENOISER, right)
    for source in range(len(file.sources)):
        server.files[path_of(server, file, source)] = File(wrong)
    with pytest.raises(DownloadError) as error:
        get(tmp_path, file)
    digest = hashlib.sha256(wrong).hexdigest()
    assert str(error.value).count(f"with the SHA-256 {digest}, published is {file.sha256}") == 2
    (aside,) = left(tmp_path)
    assert aside == f"{file.name}.{digest[:8]}.refused"
    assert f"kept aside as {tmp_path / aside}" in str(error.value)
    assert (tmp_path / aside).read_bytes() == wrong
    assert refused_files(tmp_path / file.name) == [tmp_path / aside]
    # The next source has it; what is aside stays.
    server.files[path_of(server, file, 1)].content = right
    report = get(tmp_path, file)
    assert (tmp_path / file.name).read_bytes() == right
    assert left(tmp_path) == [RECORD, file.name, aside]
    assert f"kept aside as {tmp_path / aside}" in report
    server.requests.clear()
    assert "is there, with the SHA-256 published" in get(tmp_path, file)
    assert server.requests == []


def test_a_file_of_the_user_that_is_not_the_published_one_is_left_alone(
    server: FileServer, tmp_path: Path
) -> None:
    """Both are told, without asking anyone."""
    mine = tmp_path / released.AUTOENCODER.name
    mine.write_bytes(b"my own")
    with pytest.raises(DownloadError) as error:
        get(tmp_path, released.AUTOENCODER)
    assert hashlib.sha256(b"my own").hexdigest() in str(error.value)
    assert f"{released.AUTOENCODER.sha256} is published. It is left alone" in str(error.value)
    assert mine.read_bytes() == b"my own"
    assert server.requests == []


def test_what_the_public_record_tells() -> None:
    told = {f.name: (f.size, f.sha256[:8]) for f in RELEASED if f.size and f.sha256}
    assert told == {
        "autoencoder_vq_f4.pth": (221_364_711, "e967eaa2"),
        "resshift_realsrx4_s4_v3.pth": (477_917_058, "878da888"),
        SWINIR.name: (142_473_939, "99adfa91"),
    }
    for file in RELEASED:
        assert file.sha256 is None or len(file.sha256) == 64
        assert all("latest" not in source.url for source in file.sources)


# A user's files


def test_a_file_of_the_user_is_left_alone(predictor: File, tmp_path: Path) -> None:
    mine = tmp_path / PREDICTOR.name
    mine.write_bytes(b"my own")
    with pytest.raises(DownloadError) as error:
        get(tmp_path, PREDICTOR)
    message = str(error.value)
    assert hashlib.sha256(b"my own").hexdigest() in message
    assert hashlib.sha256(predictor.content).hexdigest() in message
    assert "move it out of the folder and run this again" in message
    assert mine.read_bytes() == b"my own"
    assert left(tmp_path) == [PREDICTOR.name]


def test_a_downloaded_file_that_was_changed_is_noticed(denoiser: File, tmp_path: Path) -> None:
    get(tmp_path, DENOISER)
    (tmp_path / DENOISER.name).write_bytes(denoiser.content[:-1])
    with pytest.raises(DownloadError, match="recorded when it was downloaded"):
        get(tmp_path, DENOISER)


def test_a_file_that_comes_by_another_way_meanwhile_is_left_alone(
    denoiser: File, tmp_path: Path
) -> None:
    mine = tmp_path / DENOISER.name
    denoiser.pause = 0.005
    with pytest.raises(DownloadError, match="has come from elsewhere meanwhile"):
        get(tmp_path, DENOISER, watch=lambda *_: mine.write_bytes(b"my own") and None)
    assert mine.read_bytes() == b"my own"


@pytest.mark.parametrize("links", [True, False])
def test_a_rename_is_never_over_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """Nor over one that nothing saw before."""

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
    assert left(tmp_path) == ["target"]


@pytest.mark.parametrize("name", ["noise_predictor.pth", "below/noise_predictor.pth"])
def test_a_file_in_any_folder_and_below_it_is_present(
    server: FileServer, contents: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    server.files[HUB + PREDICTOR.name] = File(contents[PREDICTOR.name])
    there = tmp_path / "second" / name
    there.parent.mkdir(parents=True)
    there.write_bytes(contents[PREDICTOR.name])
    folders = [tmp_path / "first", tmp_path / "second"]
    report = download([PREDICTOR], {"lpnsr": folders, "upscale_models": []}, go_on)
    assert report == f"{PREDICTOR.name}: {there} is there, with the SHA-256 at Hugging Face"
    assert not folders[0].exists()


def test_a_file_that_nothing_can_be_compared_with_counts_as_present(
    server: FileServer, tmp_path: Path
) -> None:
    (tmp_path / PREDICTOR.name).write_bytes(b"mine")
    assert "there is nothing to compare it with" in get(tmp_path, PREDICTOR)


# Disk, and two at once


def test_a_failing_disk_is_named_and_what_has_come_is_kept(
    server: FileServer, denoiser: File, tmp_path: Path
) -> None:
    with files_of_at_most(1_000_000), pytest.raises(DownloadError) as error:
        get(tmp_path, DENOISER)
    assert f"{DENOISER.name} can't be written into {tmp_path}: " in str(error.value)
    (part,) = left(tmp_path)
    assert (tmp_path / part).stat().st_size == 1_000_000
    get(tmp_path, DENOISER)
    assert (tmp_path / DENOISER.name).read_bytes() == denoiser.content
    assert server.gets(DENOISER.name)[-1] == "bytes=1000000-"


def test_too_little_room_is_noticed_beforehand(denoiser: File, tmp_path: Path) -> None:
    denoiser.length = 10**18  # more than any disk has
    with pytest.raises(DownloadError, match=r"1000000000000\.0 MB are needed in .* MB are free"):
        get(tmp_path, DENOISER)
    assert left(tmp_path) == []


def test_a_folder_that_can_not_be_made_is_named(denoiser: File, tmp_path: Path) -> None:
    (tmp_path / "lpnsr").write_text("no folder")
    with pytest.raises(DownloadError, match=r"can't be written into .*lpnsr"):
        get(tmp_path / "lpnsr", DENOISER)


def test_two_downloads_of_one_file_fetch_it_once(
    server: FileServer, denoiser: File, tmp_path: Path
) -> None:
    denoiser.pause = 0.005
    reports: list[str] = []
    threads = [
        threading.Thread(target=lambda: reports.append(get(tmp_path, DENOISER))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted("downloaded into" in report for report in reports) == [False, True]
    assert server.gets(DENOISER.name) == [None]
    assert (tmp_path / DENOISER.name).read_bytes() == denoiser.content


# Command line


def test_the_command_line_downloads_a_preset(
    server: FileServer,
    contents: dict[str, bytes],
    denoiser: File,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = tuple(known(f, contents[f.name]) for f in CHOICES["ResShift"])
    monkeypatch.setitem(CHOICES, "ResShift", files)
    server.files[RESSHIFT + AUTOENCODER.name] = File(contents[AUTOENCODER.name])
    command = ["download", "ResShift", "--folder", str(tmp_path)]
    assert main(command) == 1  # without consent
    assert left(tmp_path) == []
    assert main([*command, "--accept-licences"]) == 0
    assert left(tmp_path) == [AUTOENCODER.name, RECORD, DENOISER.name]
    load_denoiser(tmp_path / DENOISER.name)


def test_the_command_line_needs_a_folder_outside_of_comfyui(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["download", SWINIR.name, "--folder", str(tmp_path)]) == 1
    assert "--upscale-models-folder" in caplog.text


def test_nothing_of_the_network_is_imported_before_a_download() -> None:
    code = (
        "import sys, lpnsr_impl.cli, lpnsr_impl.files.download, lpnsr_impl.files.doctor\n"
        "sys.exit(bool({'requests', 'huggingface_hub', 'filelock'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=PACK).returncode == 0


# One table


def rows_of(text: str) -> dict[str, str]:
    """Rows of tables of files, by the file's name."""
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
