"""`make demo`: upscale a picture with the quick-start workflow in a real ComfyUI."""

import asyncio
import sys
import time
import uuid
from typing import Any

import aiohttp

from .install import cache_dir
from .server import PACK, PromptError, Server, load_api_workflow, node_of_type, running

WORKFLOW = "LPNSR quick start"
PICTURE = PACK / "workflows" / "lpnsr_example.png"
RESULT = PACK / "output" / "lpnsr_demo.png"


def main() -> int:
    """Run the workflow and save its picture."""
    print("Starting ComfyUI ...", flush=True)
    with running(cache_dir() / "base") as server:
        print(
            f"ComfyUI is up at {server.url}. Queueing {WORKFLOW!r} for {PICTURE.name} ...",
            flush=True,
        )
        prompt = load_api_workflow(WORKFLOW)
        node_of_type(prompt, "LoadImage")["inputs"]["image"] = server.upload(PICTURE)
        seed = time.time_ns() % 2**32  # a new seed, so that no result comes from ComfyUI's cache
        node_of_type(prompt, "LPNSRSample")["inputs"]["seed"] = seed
        started = time.monotonic()
        try:
            prompt_id = asyncio.run(_queue_and_follow(server, prompt))
            (picture,) = server.images(server.wait(prompt_id))
        except PromptError as e:
            print(f"The workflow failed: {e}\nThe server's log is {server.log}.", file=sys.stderr)
            return 1
        seconds = time.monotonic() - started
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_bytes(picture)
    print(f"Done in {seconds:.1f} s.\nInput:  {PICTURE}\nResult: {RESULT}")
    return 0


async def _queue_and_follow(server: Server, prompt: dict[str, Any]) -> str:
    """Queue a prompt, print its progress until it ends, and return its id."""
    client_id = uuid.uuid4().hex
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(
            f"{server.url}/ws", params={"clientId": client_id}, max_msg_size=0
        ) as socket,
    ):
        prompt_id = await asyncio.to_thread(server.queue, prompt, client_id)
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                continue
            event = message.json()
            data = event["data"]
            if data.get("prompt_id") != prompt_id:
                continue
            node = prompt.get(str(data.get("node")), {}).get("class_type")
            if event["type"] == "executing" and node:
                print(f"  {node}", flush=True)
            elif event["type"] == "progress":
                print(f"    {data['value']}/{data['max']}", flush=True)
            elif event["type"] in ("execution_success", "execution_error", "execution_interrupted"):
                break
    return prompt_id


if __name__ == "__main__":
    sys.exit(main())
