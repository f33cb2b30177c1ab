"""Many prompts in a row, valid, invalid and cancelled, in a separate ComfyUI that is restarted
once."""

import random
import statistics
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.host.server import PromptError, Server, running

from .conftest import BUNDLED_START, PROBE, Graph, add_save_node, random_image, wait_until_at_work

Prompt = dict[str, Any]

ROUNDS_AFTER_RESTART = 6
WARM_UP_ROUNDS = 3  # 60 prompts, after which memory use must not grow


def good_prompts(graph: Graph) -> list[tuple[Prompt, str]]:
    """Make twelve valid prompts of PreSet-A and PreSet-B, half of them in separate nodes and half
    with LPNSR Upscale. Returns each prompt with the id of its output node."""
    images = {
        "small": random_image(1, 12, 16, 3),
        "odd": random_image(1, 31, 7, 3, seed=1),
        "batch": random_image(2, 9, 20, 3, seed=2),
        "rgba": random_image(1, 24, 24, 4, seed=3),
        "grey": random_image(1, 1, 5, 1, seed=4),
        "large": random_image(1, 40, 24, 3, seed=5),
    }
    prompts: list[tuple[Prompt, str]] = []
    for i, (name, image) in enumerate(images.items()):
        by_stages = graph.stages(image, seed=100 + i, steps=4 if name == "rgba" else 1)
        steps = 4 if name == "small" else 1
        in_one = graph.upscale(image, seed=200 + i, steps=steps, use_predictor=name != "grey")
        if name == "grey":
            in_one["models"] = graph.models(noise_predictor="none")
        preset_b, node = (by_stages, "start") if i % 2 else (in_one, "upscale")
        loader = {"class_type": "UpscaleModelLoader", "inputs": {"model_name": BUNDLED_START}}
        preset_b["loader"] = loader
        preset_b[node]["inputs"]["upscale_model"] = ["loader", 0]
        prompts += [(by_stages, "decode"), (in_one, "upscale")]
        by_stages["image"] = in_one["image"] = graph.picture(image, f"{name}.safetensors")
    return prompts


def bad_prompts(graph: Graph) -> list[tuple[Prompt, str]]:
    """Make six invalid prompts. Returns each with a part of its expected error message."""
    image = random_image(1, 12, 16, 3)

    def change(node: str, **inputs: Any) -> Prompt:
        prompt = graph.stages(image)
        prompt[node]["inputs"].update(inputs)
        return prompt

    foreign = change("sample", samples=["empty", 0])
    size = {"width": 64, "height": 64, "batch_size": 1}
    foreign["empty"] = {"class_type": "EmptyLatentImage", "inputs": size}
    linked = change("sample", steps=["number", 0])
    linked["number"] = {"class_type": "PrimitiveInt", "inputs": {"value": 9}}
    nan = graph.stages(image)
    nan["image"] = graph.picture(torch.full_like(image, torch.nan), "nan.safetensors")
    return [
        (change("models", denoiser="nothing.pth"), "there is no file 'nothing.pth'"),
        (change("decode", color_fix="lab"), "color_fix: 'lab' is unknown"),
        (change("sample", steps=16), "Value 16 bigger than max of 15"),
        (linked, "steps is 9, but this denoiser has 4 steps"),
        (foreign, "carries no LR image"),
        (nan, "image has NaN or infinite values"),
    ]


class Rounds:
    """Runs rounds of the same twenty prompts. A round queues them all at once, in a new order."""

    def __init__(self, base: Path) -> None:
        self.output = base / "output"
        self.count = 0
        self.first: dict[str, Tensor] = {}

    def run(self, server: Server) -> tuple[int, int]:
        """Run a round. Returns the server's resident memory in bytes and its number of tensors
        after the round."""
        self.count += 1
        graph = Graph(server)
        good = {f"good {i}": prompt for i, prompt in enumerate(good_prompts(graph))}
        bad = {message: (prompt, "decode") for prompt, message in bad_prompts(graph)}
        prompts = {**good, **bad}
        names = random.Random(self.count).sample(list(prompts), len(prompts))

        ids = {name: self._queue(server, name, *prompts[name]) for name in names}
        long = graph.stages(random_image(6, 64, 64, 3))
        cancelled = self._queue(server, "cancelled", long, "decode")
        deleted = self._queue(server, "deleted", *good["good 0"])
        server.post("/queue", {"delete": [deleted]})

        for name in names:
            if name in good:
                server.wait(ids[name])
                result = load_file(self._file(name))["result"]
                assert torch.equal(result, self.first.setdefault(name, result)), name
            else:
                self._expect_error(server, ids[name], name)
        wait_until_at_work(server, cancelled)
        server.post("/interrupt", {"prompt_id": cancelled})
        self._expect_error(server, cancelled, "interrupted")
        left = server.run({"memory": {"class_type": "ProbeMemory", "inputs": {}}})
        made = {path.name for path in self.output.glob(f"{self.count} *")}
        assert made == {self._file(name).name for name in good}
        assert deleted not in server.get("/history")
        resident = psutil.Process(server.process.pid).memory_info().rss
        return resident, left["memory"]["tensors"][0]

    def _file(self, name: str) -> Path:
        return self.output / f"{self.count} {name}.safetensors"

    def _queue(self, server: Server, name: str, prompt: Prompt, source: str) -> str | PromptError:
        try:
            return server.queue(add_save_node(prompt, source, self._file(name).name))
        except PromptError as e:
            return e

    @staticmethod
    def _expect_error(server: Server, queued: str | PromptError, message: str) -> None:
        if isinstance(queued, str):
            with pytest.raises(PromptError) as error:
                server.wait(queued)
            queued = error.value
        assert message in str(queued)


def test_prompts_give_what_they_gave_first(tmp_path: Path) -> None:
    """Every round gives the results of the first one, even after the server was restarted. After
    the restart, memory use stops growing once sixty prompts have run."""
    rounds = Rounds(tmp_path)
    with running(tmp_path, packs=PROBE) as server:
        rounds.run(server)
    with running(tmp_path, packs=PROBE) as server:
        held = [rounds.run(server) for _ in range(ROUNDS_AFTER_RESTART)]
    resident, tensors = zip(*held, strict=True)
    warm, later = resident[:WARM_UP_ROUNDS], resident[WARM_UP_ROUNDS:]
    assert statistics.median(later) < 1.02 * max(warm), [size // 2**20 for size in resident]
    assert len(set(tensors[WARM_UP_ROUNDS:])) == 1, tensors
