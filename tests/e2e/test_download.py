"""LPNSR Download Models and LPNSR Doctor in a real ComfyUI, with a local file server in place of
Hugging Face and GitHub."""

import asyncio
import hashlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import torch
from safetensors.torch import save
from spandrel.architectures.SwinIR import SwinIR

from lpnsr_impl.accelerate import has_fast_bf16
from lpnsr_impl.files.released import (
    AUTOENCODER,
    DENOISER,
    PREDICTOR,
    PREDICTOR_V3,
    PRESETS,
    SWINIR,
    ReleasedFile,
)
from tests.eventually import eventually, run_in_thread
from tests.file_server import GITHUB, HUB, File, FileServer, serving
from tests.host.server import PromptError, Server, load_api_workflow, node_of_type, running
from tests.small import autoencoder_weights, denoiser_weights, predictor_weights

from .conftest import PROBE

CPU = torch.device("cpu")

RESSHIFT = f"{GITHUB}zsyOAOA/ResShift/releases/download/v2.0/"
SWINIR_RELEASE = f"{GITHUB}JingyunLiang/SwinIR/releases/download/v0.0/"


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileServer]:
    """A local file server that has small models at the addresses of the released files."""
    swinir = SwinIR(embed_dim=12, depths=[1], num_heads=[2], upscale=4, upsampler="nearest+conv")
    path = tmp_path_factory.mktemp("web") / "weights.pth"
    with serving() as web:
        for address, file, weights in [
            (RESSHIFT, AUTOENCODER, autoencoder_weights()),
            (RESSHIFT, DENOISER, {**denoiser_weights(), "loss.padding": torch.zeros(10_000_000)}),
            (HUB, PREDICTOR, predictor_weights()),
            (SWINIR_RELEASE, SWINIR, {"params_ema": swinir.state_dict()}),
        ]:
            torch.save(weights, path)
            web.files[address + file.name] = File(path.read_bytes())
        web.files[HUB + PREDICTOR_V3.name] = File(save(predictor_weights()))
        yield web


@pytest.fixture(scope="module")
def extra(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parent of the server's default model folders, which extra_model_paths.yaml names."""
    return tmp_path_factory.mktemp("extra")


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, web: FileServer, extra: Path
) -> Iterator[Server]:
    folders = {"lpnsr": str(extra / "lpnsr"), "upscale_models": str(extra / "up")}
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HF_ENDPOINT", f"{web.url}/hub")
        environment.setenv("LPNSR_DOWNLOAD_MIRROR", f"{web.url}/github")
        base = tmp_path_factory.mktemp("comfyui")
        models = {"is_default": "true", **folders}
        device = ("--cpu", "--fp32-vae")
        with running(base, model_folders=models, packs=PROBE, device=device) as server:
            published = {
                path.rpartition("/")[2]: {
                    "sha256": hashlib.sha256(file.content).hexdigest(),
                    "size": len(file.content),
                }
                for path, file in web.files.items()
            }
            probe = {"class_type": "ProbePublished", "inputs": {"fields": json.dumps(published)}}
            server.run({"probe": probe})
            yield server


def download(files: str, accept: bool = True) -> dict[str, Any]:
    inputs = {"files": files, "accept_licences": accept}
    return {"download": {"class_type": "LPNSRDownloadModels", "inputs": inputs}}


def folder_of(file: ReleasedFile, extra: Path) -> Path:
    return extra / {"lpnsr": "lpnsr", "upscale_models": "up"}[file.folder]


def test_nothing_is_downloaded_at_the_start_or_without_consent(
    server: Server, web: FileServer, extra: Path
) -> None:
    with pytest.raises(PromptError, match="may not be used commercially"):
        server.run(download("PreSet-B", accept=False))
    with pytest.raises(PromptError, match="files: 'all of them' is unknown, choose one of: "):
        server.run(download("all of them"))
    assert web.requests == []
    assert not list(extra.rglob("*.*"))


def test_missing_files_are_named_once_with_the_node_that_gets_them(server: Server) -> None:
    prompt = load_api_workflow("LPNSR PreSet-A")
    with pytest.raises(PromptError) as error:
        server.run(prompt)
    (loader,) = (node for node in error.value.details["node_errors"].values())
    (problem,) = loader["errors"]
    for file in PRESETS["PreSet-A"]:
        assert f"{file.part}: there is no file '{file.name}'" in problem["details"]
    assert "The node LPNSR Download Models downloads " in problem["details"]


def default_files(server: Server) -> list[str]:
    """Return the file that Load LPNSR Models selects by default for each of its three networks."""
    inputs = server.get("/object_info/LoadLPNSRModels")["LoadLPNSRModels"]["input"]["required"]
    return [inputs[name][1]["default"] for name in ("autoencoder", "denoiser", "noise_predictor")]


def test_cancel_stops_a_stalled_download_and_the_next_run_works(
    server: Server, web: FileServer, extra: Path
) -> None:
    file = web.files[RESSHIFT + DENOISER.name]
    file.stall_at = 1_000_000
    prompt_id = server.queue(download(DENOISER.name))
    eventually(lambda: bool(list(extra.rglob("*.part"))))
    stopped = time.monotonic()
    server.post("/interrupt", {})
    with pytest.raises(PromptError, match="interrupted"):
        server.wait(prompt_id)
    assert time.monotonic() - stopped < 10, "cancelling waited for the stalled server"
    assert not list(extra.rglob("*.*"))
    file.stall_at = None
    server.run(download(DENOISER.name))
    assert (extra / "lpnsr" / DENOISER.name).read_bytes() == file.content


def test_a_preset_goes_into_the_default_folders_and_can_be_loaded(
    server: Server, web: FileServer, extra: Path
) -> None:
    assert all(name.startswith("lpnsr_lite_") for name in default_files(server))
    (report,) = server.run(download("PreSet-B"))["download"]["text"]
    for file in PRESETS["PreSet-B"]:
        path = folder_of(file, extra) / file.name
        (content,) = (f.content for key, f in web.files.items() if key.endswith(file.name))
        assert path.read_bytes() == content
        assert file.name in report
    inputs = server.get("/object_info/LoadLPNSRModels")["LoadLPNSRModels"]["input"]["required"]
    assert DENOISER.name in inputs["denoiser"][1]["options"]
    upscalers = server.get("/object_info/UpscaleModelLoader")["UpscaleModelLoader"]
    assert SWINIR.name in upscalers["input"]["required"]["model_name"][1]["options"]
    assert default_files(server) == [AUTOENCODER.name, DENOISER.name, PREDICTOR.name]
    web.requests.clear()
    again = server.run(download("ResShift"))["download"]["text"][0]
    assert again.count("already there") == 2
    assert web.requests == []
    (line,) = (
        line
        for line in server.run(download("PreSet-A"))["download"]["text"][0].splitlines()
        if "downloaded into" in line
    )
    assert line.startswith(PREDICTOR_V3.name)
    assert default_files(server) == [AUTOENCODER.name, DENOISER.name, PREDICTOR_V3.name]


def test_a_file_with_another_sha256_than_the_published_one_is_refused(
    server: Server, web: FileServer, extra: Path
) -> None:
    (extra / "up" / SWINIR.name).unlink()
    file = web.files[SWINIR_RELEASE + SWINIR.name]
    right, file.content = file.content, file.content[:-1] + b"x"
    wanted, got = (hashlib.sha256(content).hexdigest() for content in (right, file.content))
    with pytest.raises(PromptError, match=f"its SHA-256 is {got}, expected {wanted}"):
        server.run(download(SWINIR.name))
    assert not (extra / "up" / SWINIR.name).exists()
    file.content = right
    server.run(download(SWINIR.name))
    assert (extra / "up" / SWINIR.name).read_bytes() == right


def test_the_papers_predictor_is_named_as_a_replacement_for_the_newer_one(
    server: Server, extra: Path
) -> None:
    newer = extra / "lpnsr" / PREDICTOR_V3.name
    aside = newer.rename(newer.with_suffix(".aside"))
    server.get("/object_info/LoadLPNSRModels")  # refreshes the file lists, as the R key does
    prompt = load_api_workflow("LPNSR PreSet-A")
    with pytest.raises(
        PromptError, match=rf"{PREDICTOR.name}, which you have, can replace {newer.name}"
    ):
        server.run(prompt)
    (text,) = server.run({"doctor": {"class_type": "LPNSRDoctor", "inputs": {"sha256": False}}})[
        "doctor"
    ]["text"]
    assert f"PreSet-A: complete with {PREDICTOR.name} in place of {newer.name}" in text
    node_of_type(prompt, "LoadLPNSRModels")["inputs"]["noise_predictor"] = PREDICTOR.name
    server.run(prompt)
    aside.rename(newer)


async def events_of(server: Server, prompt: dict[str, Any]) -> tuple[list[float], str]:
    """Run a prompt. Returns its progress values, from 0 to 1, and all its progress texts in one
    string."""
    shares: list[float] = []
    texts = b""
    url = f"{server.url}/ws?clientId=watcher"
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
        await socket.receive()  # ComfyUI's first message means that the client is registered
        await asyncio.to_thread(server.queue, prompt, "watcher")
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                texts += message.data
                continue
            event = message.json()
            if event["type"] == "progress":
                shares.append(event["data"]["value"] / event["data"]["max"])
            if event["type"] in ("execution_success", "execution_error"):
                break
    return shares, texts.decode(errors="replace")


def test_progress_is_shown_on_the_node(server: Server, web: FileServer, extra: Path) -> None:
    (extra / "lpnsr" / DENOISER.name).unlink()
    file = web.files[RESSHIFT + DENOISER.name]
    file.pause = 0.01
    shares, texts = run_in_thread(events_of(server, download(DENOISER.name)))
    file.pause = 0
    assert sum(0 < share < 1 for share in shares) >= 3
    assert shares == sorted(shares)
    assert re.search(rf"{DENOISER.name}\s+\d+\.\d of 43\.3 MB", texts)


def test_the_doctor_sees_host_folders_and_broken_files(server: Server, extra: Path) -> None:
    (extra / "lpnsr" / "broken.pth").write_bytes(b"broken")
    prompt = {"doctor": {"class_type": "LPNSRDoctor", "inputs": {"sha256": True}}}
    (text,) = server.run(prompt)["doctor"]["text"]
    assert re.search(r"ComfyUI \d+\.\d+\.\d+, options .*--cpu", text)
    assert "comfyui-frontend-package 1." in text
    # The server runs with --fp32-vae. The U-Nets use the fastest dtype of this CPU.
    unets = "bfloat16, activations torch.bfloat16" if has_fast_bf16(CPU) else "float32"
    auto = (
        "precision 'auto' for the released models: autoencoder torch.float32; "
        "U-Nets: weights torch."
    )
    assert auto + unets in text
    assert f"lpnsr: {extra / 'lpnsr'}, " in text
    assert f"lpnsr: {server.base / 'models' / 'lpnsr'}, " in text
    assert "lpnsr_lite_denoiser.safetensors, 17.7 MB, a denoiser" in text
    assert re.search(r"\d\. .*broken\.pth", text)
    assert f"{AUTOENCODER.name} is not the published file of this name" in text
    (extra / "lpnsr" / "broken.pth").unlink()
    assert "broken.pth" not in server.run(prompt)["doctor"]["text"][0]
