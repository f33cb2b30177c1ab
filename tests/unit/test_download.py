"""Downloads over real sockets, from a server that breaks, stalls and lies as real ones do."""

import hashlib
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from spandrel.architectures.SwinIR import SwinIR

from lpnsr_impl import load_denoiser, transfer
from lpnsr_impl.cli import main
from lpnsr_impl.download import RECORD, DownloadError, download, require_consent
from lpnsr_impl.released import AUTOENCODER, DENOISER, PREDICTOR, PREDICTOR_V2, RELEASED, SWINIR
from tests.file_server import GITHUB, HUB, File, FileServer, serving
from tests.limits import files_of_at_most
from tests.small import autoencoder_weights, denoiser_weights, predictor_weights

PACK = Path(__file__).parents[2]
RESSHIFT = f"{GITHUB}zsyOAOA/ResShift/releases/download/v2.0/"
LPNSR = f"{GITHUB}Faze-Hsw/LPNSR/releases/latest/download/"
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
    return {
        AUTOENCODER.name: pickled(autoencoder_weights()),
        DENOISER.name: pickled(denoiser_weights()),
        PREDICTOR.name: pickled(predictor_weights()),
        PREDICTOR_V2.name: pickled({k: 2 * v for k, v in predictor_weights().items()}),
        SWINIR.name: pickled({"params_ema": swinir.state_dict()}),
    }


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
    for release, file in [
        (RESSHIFT, AUTOENCODER),
        (RESSHIFT, DENOISER),
        (HUB, PREDICTOR),
        (SWINIR_RELEASE, SWINIR),
    ]:
        server.files[release + file.name] = File(contents[file.name])
    server.files[HUB + "noise_predictor%28v2%29.pth"] = File(contents[PREDICTOR_V2.name])
    folders = {"lpnsr": [tmp_path / "a" / "lpnsr"], "upscale_models": [tmp_path / "b"]}
    report = download(RELEASED, folders, go_on)
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
    server.files[LPNSR + "noise_predictor.v2.pth"] = File(contents[PREDICTOR_V2.name])
    get(tmp_path, PREDICTOR_V2)
    assert (tmp_path / PREDICTOR_V2.name).read_bytes() == contents[PREDICTOR_V2.name]


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
        get(tmp_path, PREDICTOR)
    assert time.monotonic() - started < 10
    for part in (
        "noise_predictor.pth could not be downloaded",
        "http://127.0.0.1:9/mirpri/LPNSR/resolve/main/noise_predictor.pth: ",
        "http://127.0.0.1:9/Faze-Hsw/LPNSR/releases/latest/download/noise_predictor.pth: ",
        "refused",
        "https://huggingface.co/mirpri/LPNSR or https://github.com/Faze-Hsw/LPNSR/releases/latest",
        f"put it into {tmp_path} under the name noise_predictor.pth",
    ):
        assert part in str(error.value)


def test_consent_is_asked_for_non_commercial_files_alone() -> None:
    require_consent([PREDICTOR, PREDICTOR_V2, SWINIR], accepted=False)
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
    content = contents[PREDICTOR.name]
    server.files[HUB + PREDICTOR.name] = File(**{"content": content, **wrong})
    with pytest.raises(DownloadError) as error:
        get(tmp_path, PREDICTOR)
    assert message in str(error.value)
    assert left(tmp_path) == []
    server.files[HUB + PREDICTOR.name] = File(**{"content": content, **wrong})
    server.files[LPNSR + PREDICTOR.name] = File(content)
    get(tmp_path, PREDICTOR)
    assert (tmp_path / PREDICTOR.name).read_bytes() == content


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


@pytest.mark.parametrize("name", ["noise_predictor_v2.pth", "below/noise_predictor(v2).pth"])
def test_a_file_in_any_folder_under_any_of_its_names_is_present(
    server: FileServer, contents: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    server.files[HUB + PREDICTOR_V2.name] = File(contents[PREDICTOR_V2.name])
    there = tmp_path / "second" / name
    there.parent.mkdir(parents=True)
    there.write_bytes(contents[PREDICTOR_V2.name])
    folders = [tmp_path / "first", tmp_path / "second"]
    report = download([PREDICTOR_V2], {"lpnsr": folders, "upscale_models": []}, go_on)
    assert report == f"{PREDICTOR_V2.name}: {there} is there, with the SHA-256 at Hugging Face"
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
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        with pytest.raises(DownloadError, match=r"3\.3 MB are needed in .* 1\.0 MB are free"):
            get(tmp_path, DENOISER)
        assert left(tmp_path) == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


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
    server: FileServer, contents: dict[str, bytes], denoiser: File, tmp_path: Path
) -> None:
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
        "import sys, lpnsr_impl.cli, lpnsr_impl.download, lpnsr_impl.doctor\n"
        "sys.exit(bool({'requests', 'huggingface_hub', 'filelock'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=PACK).returncode == 0


# One table


def test_readme_and_workflows_agree_with_the_table_of_released_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://huggingface.co")
    readme = (PACK / "README.md").read_text(encoding="utf-8")
    rows = [row for row in readme.splitlines() if row.startswith("| `")]
    for file in RELEASED:
        (row,) = (row for row in rows if row.startswith(f"| `{file.name}`"))
        assert f"`models/{file.folder}`" in row
        assert file.sources[0].page in row
        assert file.licence.name in row
    known = {file.name: file for file in RELEASED}
    models = [
        model
        for path in PACK.glob("workflows/*.json")
        for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]
        for model in node["properties"].get("models", [])
    ]
    assert models
    for model in models:
        file = known[model["name"]]
        assert model == {
            "name": file.name,
            "url": file.sources[0].url,
            "directory": file.folder,
        }
