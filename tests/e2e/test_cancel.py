"""Cancelling LPNSR Decode with LR consistency. `test_nodes.py` and `test_compare.py` cancel other
nodes."""

import pytest

from tests.host.server import PromptError, Server

from .conftest import Graph, add_save_node, random_image, wait_until_at_work


def test_cancel_ends_decoding_with_its_finishing(server: Server, graph: Graph) -> None:
    """A first run puts the latents into the cache, so that the cancelled run only decodes them and
    applies LR consistency."""
    images = random_image(24, 64, 64, 3)
    prompt = graph.stages(images, steps=1)
    prompt["decode"]["inputs"]["lr_consistency"] = True
    graph.run({key: prompt[key] for key in prompt if key != "decode"}, "sample", "latent")
    prompt_id = server.queue(add_save_node(prompt, "decode", "never.safetensors"))
    wait_until_at_work(server, prompt_id)
    server.post("/interrupt", {})
    with pytest.raises(PromptError, match="interrupted"):
        server.wait(prompt_id)
    assert not (server.base / "output" / "never.safetensors").exists()
    assert graph.run(graph.upscale(random_image(1, 8, 8, 3)), "upscale").shape == (1, 32, 32, 3)
