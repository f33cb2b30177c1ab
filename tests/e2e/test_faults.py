"""Faults outside the pack: lack of memory, full and read-only disks, damaged files, killed servers.
The README in this folder lists all tested faults."""

import io
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from tests.eventually import eventually
from tests.host.server import PACK, PromptError, Server, prepare_base, running

from .conftest import (
    BUNDLED_START,
    LITE_DENOISER,
    PROBE,
    WEIGHTS,
    Graph,
    add_save_node,
    random_image,
    wait_until_at_work,
)

Prompt = dict[str, Any]

LITE_PREDICTOR = WEIGHTS / "lpnsr_lite_noise_predictor.safetensors"
EXAMPLE = "lpnsr_example.png"


# Memory


def limited_start(graph: Graph, image: Tensor, limit: int) -> dict[str, Any]:
    """Make a PreSet-B prompt whose upscale model raises an out-of-memory error for inputs wider
    than `limit`."""
    prompt = graph.stages(image)
    loader = {"class_type": "UpscaleModelLoader", "inputs": {"model_name": BUNDLED_START}}
    inputs = {"upscale_model": ["loader", 0], "limit": limit}
    prompt["loader"] = loader
    prompt["limited"] = {"class_type": "ProbeUpscaleOutOfMemory", "inputs": inputs}
    prompt["start"]["inputs"]["upscale_model"] = ["limited", 0]
    return prompt


def test_an_upscale_model_goes_on_in_smaller_tiles(graph: Graph) -> None:
    image = random_image(1, 8, 300, 3)
    tiled = graph.run(limited_start(graph, image, 128), "start")
    whole = graph.run(limited_start(graph, image, 1000), "start")
    assert (tiled - whole).abs().mean() < 1e-3


def test_an_upscale_model_that_fits_nowhere_is_an_error(graph: Graph) -> None:
    image = random_image(1, 8, 8, 3)
    with pytest.raises(PromptError, match=r"out of memory \(simulated by the test's probe"):
        graph.run(limited_start(graph, image, 16), "decode")
    assert graph.run(limited_start(graph, image, 64), "decode").shape == (1, 32, 32, 3)


# Disks


@contextmanager
def mount(folder: Path, *arguments: str) -> Iterator[None]:
    """Run `mount ARGUMENTS FOLDER`, and unmount the folder at the end. Skips the test if mounting
    is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["mount", *arguments, str(folder)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as e:
        pytest.skip(f"this test needs permission to mount a disk: {e}")
    try:
        yield
    finally:
        # Retry, since recent versions of ComfyUI may still be reading the files that they saved.
        eventually(lambda: subprocess.run(["umount", str(folder)], check=False).returncode, 0)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make a folder read-only, even for root."""
    with mount(folder, "--bind", str(folder)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        yield


def test_a_full_disk_is_an_error_and_room_cures_it(server: Server, graph: Graph) -> None:
    prompt = graph.upscale(random_image(1, 40, 40, 3), steps=1)
    inputs = {"images": ["upscale", 0], "filename_prefix": "full/picture"}
    prompt["save"] = {"class_type": "SaveImage", "inputs": inputs}
    disk = server.base / "output" / "full"
    with mount(disk, "-t", "tmpfs", "-o", "size=8k", "tmpfs"):
        with pytest.raises(PromptError, match="No space left on device"):
            server.run(prompt)
        subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
        (picture,) = server.images(server.run(prompt))
        assert Image.open(io.BytesIO(picture)).size == (160, 160)


# Model files


class Exploit:
    """An object that runs code when it is unpickled: it creates the file `target`."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.target,)


def pickled(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def of_another_family() -> bytes:
    with safe_open(LITE_PREDICTOR, "pt") as file:
        header = file.metadata()
    return save(load_file(LITE_PREDICTOR), {**header, "lpnsr.family": "other"})


def spoil_and_restore(graph: Graph, name: str, good: bytes, bad: bytes | None) -> str:
    """Run a prompt three times: with the content `good` in a noise predictor's file, with `bad`
    (None: no file), and with `good` again. Asserts that the third run gives the result of the
    first, and returns the error message of the second."""
    path = graph.server.base / "models" / "lpnsr" / name
    path.write_bytes(good)
    prompt = graph.stages(random_image(1, 8, 8, 3), steps=2)
    prompt["models"] = graph.models(noise_predictor=name)
    expected = graph.run(prompt, "decode")
    if bad is None:
        path.unlink()
    else:
        path.write_bytes(bad)
    with pytest.raises(PromptError) as error:
        graph.run(prompt, "decode")
    path.write_bytes(good)
    assert torch.equal(graph.run(prompt, "decode"), expected)
    path.unlink()
    return str(error.value)


GOOD = LITE_PREDICTOR.read_bytes()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (None, "noise_predictor: there is no file 'mine.safetensors' in"),
        (b"", "mine.safetensors is empty"),
        (b"<!DOCTYPE html><html>", "mine.safetensors is a text page"),
        (GOOD[: len(GOOD) // 2], "mine.safetensors is not a readable safetensors file"),
        (GOOD[::-1], "mine.safetensors is not a readable safetensors file"),
        (
            (WEIGHTS / LITE_DENOISER).read_bytes(),
            "mine.safetensors: it looks like a denoiser, expected a noise predictor",
        ),
        (of_another_family(), "NoisePredictor is of 'other'"),
    ],
    ids=["gone", "empty", "text", "cut-short", "scrambled", "another-part", "another-family"],
)
def test_a_file_that_goes_bad_is_named_and_found_again(
    graph: Graph, bad: bytes | None, message: str
) -> None:
    assert message in spoil_and_restore(graph, "mine.safetensors", GOOD, bad)


def test_code_in_a_file_is_never_run(graph: Graph, tmp_path: Path) -> None:
    good, evil = pickled(load_file(LITE_PREDICTOR)), pickled({"x": Exploit(tmp_path / "pwned")})
    error = spoil_and_restore(graph, "mine.pth", good, evil)
    assert (
        "noise_predictor: mine.pth is not a plain file of tensors: loading it would run code"
        in error
    )
    assert not any(tmp_path.iterdir())


# Servers


@pytest.fixture
def known(graph: Graph) -> tuple[Prompt, Tensor]:
    """A prompt, and its result on a server without faults."""
    prompt = graph.stages(random_image(1, 12, 16, 3), steps=2)
    return prompt, graph.run(prompt, "decode")


def copy_input(server: Server, base: Path) -> None:
    """Copy the input picture of the fixture `known` from `server` to another base directory."""
    (base / "input").mkdir(parents=True, exist_ok=True)
    shutil.copy(server.base / "input" / "probe.safetensors", base / "input")


@pytest.fixture(scope="module")
def odd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two copies of the pack, one under a name with spaces and Chinese characters."""
    base = tmp_path_factory.mktemp("odd one")
    with running(
        base, packs={**PROBE, "LPNSR \u2013 zweite Kopie \u8d85\u89e3\u50cf": PACK}
    ) as server:
        yield server


def test_the_pack_may_be_there_twice_under_any_name(
    odd_server: Server, server: Server, known: tuple[Prompt, Tensor]
) -> None:
    copy_input(server, odd_server.base)
    imports = [line for line in odd_server.log.read_text().splitlines() if "LPNSR" in line]
    # ComfyUI logs the import times of three packs: the two copies, and the probe pack.
    assert sum("seconds:" in line for line in imports) == 3, imports
    assert torch.equal(Graph(odd_server).run(known[0], "decode"), known[1])


def test_servers_share_a_base_directory_and_outlive_each_other(
    odd_server: Server, server: Server, known: tuple[Prompt, Tensor]
) -> None:
    prompt, expected = known
    base = odd_server.base
    copy_input(server, base)
    with running(base, packs=PROBE) as other:
        ids = [
            s.queue(add_save_node(prompt, "decode", f"shared_{i}"))
            for i, s in enumerate([odd_server, other])
        ]
        for i, s in enumerate([odd_server, other]):
            s.wait(ids[i])
            assert torch.equal(load_file(base / "output" / f"shared_{i}")["result"], expected)
        killed = add_save_node(Graph(other).stages(random_image(6, 64, 64, 3)), "decode", "killed")
        prompt_id = other.queue(killed)
        wait_until_at_work(other, prompt_id)
        other.process.kill()
        other.process.wait()
    copy_input(server, base)
    assert torch.equal(Graph(odd_server).run(prompt, "decode"), expected)
    with running(base, packs=PROBE) as again:
        assert torch.equal(Graph(again).run(prompt, "decode"), expected)
        assert not (base / "output" / "killed").exists()


def test_read_only_folders_are_warned_of_and_all_else_works(
    server: Server, tmp_path: Path, known: tuple[Prompt, Tensor]
) -> None:
    prepare_base(tmp_path, {})
    copy_input(server, tmp_path)
    folders = tmp_path / "input", tmp_path / "models"
    with read_only(folders[0]), read_only(folders[1]), running(tmp_path, packs=PROBE) as own:
        assert torch.equal(Graph(own).run(known[0], "decode"), known[1])
        log = own.log.read_text()
    assert f"{folders[0] / EXAMPLE} can't be written" in log
    assert f"{folders[1] / 'lpnsr'} can't be created" in log


def test_a_full_disk_gets_no_half_example_picture(
    server: Server, tmp_path: Path, known: tuple[Prompt, Tensor]
) -> None:
    folder = tmp_path / "input"
    with mount(folder, "-t", "tmpfs", "-o", "size=16k", "tmpfs"):
        copy_input(server, tmp_path)
        with running(tmp_path, packs=PROBE) as own:
            assert torch.equal(Graph(own).run(known[0], "decode"), known[1])
            assert f"{folder / EXAMPLE} can't be written" in own.log.read_text()
        # Ignore subfolders, which ComfyUI creates.
        files = {path.name for path in folder.iterdir() if path.is_file()}
        left = files - {"probe.safetensors"}
        for name in left:  # smaller example files, which fit on the disk
            assert (folder / name).read_bytes() == (PACK / "workflows" / name).read_bytes()
        assert EXAMPLE not in left


def test_an_example_that_was_deleted_stays_away(tmp_path: Path) -> None:
    with running(tmp_path):
        pass
    example = tmp_path / "input" / EXAMPLE
    others = {path.name for path in example.parent.iterdir() if path != example}
    example.unlink()
    with running(tmp_path):
        assert {path.name for path in example.parent.iterdir()} >= others
        assert not example.exists()
