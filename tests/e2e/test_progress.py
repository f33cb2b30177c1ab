"""Progress texts and previews of nodes, as a real ComfyUI sends them to the browser."""

import asyncio
import io
import re
import struct
import uuid
from typing import Any

import aiohttp
import pytest
import torch
from PIL import Image
from torch import Tensor

from lpnsr_impl.pictures.reading import read_picture, to_pil
from tests.eventually import run_in_thread
from tests.host.server import PACK

from .conftest import Graph

PREVIEW, TEXT = 1, 3  # types of ComfyUI's binary WebSocket messages


async def follow(graph: Graph, prompt: dict[str, Any]) -> tuple[dict[str, list[str]], list[bytes]]:
    """Run a prompt. Returns its progress texts by node id, and its previews as image files."""
    client = uuid.uuid4().hex
    texts: dict[str, list[str]] = {}
    previews: list[bytes] = []
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{graph.server.url}/ws?clientId={client}", max_msg_size=0) as socket,
    ):
        await socket.receive()  # ComfyUI's first message means that the client is registered
        await asyncio.to_thread(graph.server.queue, prompt, client)
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                kind, head = struct.unpack(">II", message.data[:8])
                if kind == TEXT:
                    node, text = message.data[8 : 8 + head], message.data[8 + head :]
                    texts.setdefault(node.decode(), []).append(text.decode())
                elif kind == PREVIEW:
                    previews.append(message.data[8:])
            elif message.type is aiohttp.WSMsgType.TEXT:
                event = message.json()["type"]
                if event in ("execution_success", "execution_error"):
                    assert event == "execution_success"
                    return texts, previews
    raise AssertionError("the WebSocket was closed before the prompt ended")


@pytest.fixture(scope="module")
def picture() -> Tensor:
    """Part of the example picture, an IMAGE [1,40,72,3]."""
    x = read_picture(PACK / "workflows" / "lpnsr_example.png")
    return x[None, :, 20:60, 20:92].movedim(1, -1)


def save(prompt: dict[str, Any]) -> dict[str, Any]:
    inputs = {"image": ["decode", 0], "file": "progress.safetensors"}
    return {**prompt, "save": {"class_type": "ProbeSave", "inputs": inputs}}


def test_a_node_says_what_it_plans_and_how_far_it_is(graph: Graph, picture: Tensor) -> None:
    tiles = {"tile_size": 32, "overlap": 8}
    texts, _ = run_in_thread(follow(graph, save(graph.stages(picture, seed=101, **tiles))))
    first, *between, last = texts["sample"]
    assert re.fullmatch(r"loading  \n6 tiles of 32x32, \d+ MB", first)
    assert any(text.startswith("step 1/4, tile ") and " s left  \n" in text for text in between)
    assert last.startswith("done in ")
    assert re.fullmatch(r"loading  \n1 tile, \d+ MB", texts["decode"][0])
    assert "LPNSR: 72x40 to 288x160, 6 tiles of 32x32, " in graph.server.log.read_text()


def test_images_of_a_batch_are_counted(graph: Graph, picture: Tensor) -> None:
    batch = picture.expand(3, -1, -1, -1)
    texts, _ = run_in_thread(follow(graph, save(graph.stages(batch, seed=102))))
    assert any("image 2/3, step " in text for text in texts["sample"])


def test_each_step_shows_the_clean_prediction(graph: Graph, picture: Tensor) -> None:
    _, previews = run_in_thread(follow(graph, save(graph.stages(picture, seed=103))))
    images = [Image.open(io.BytesIO(preview)).convert("RGB") for preview in previews]
    assert len(images) == 4
    lr = torch.tensor(list(to_pil(picture.movedim(-1, 1)).tobytes())).float()
    for image in images:
        small = image.resize((72, 40), Image.Resampling.BOX)  # undo ComfyUI's enlargement
        difference = (torch.tensor(list(small.tobytes())).float() - lr).abs().mean()
        assert difference < 25, "the preview has wrong colours"
