"""The shipped workflows in ComfyUI's editor, in a real browser. Screenshots go to
build/screenshots, in a folder for each front end and renderer."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image
from playwright.sync_api import Page

from tests.eventually import PATIENCE, eventually
from tests.host.browser import api_prompt, drop_file, fit_view, node_types
from tests.host.server import PACK, Server, load_api_workflow

from .editor import in_one_renderer, node_of, picture_width, run
from .test_nodes import WORKFLOWS

OUR_PREFIXES = ("LPNSR", "LoadLPNSR", "ResShift")
CORE_NODES = {"LoadImage", "SaveImage", "UpscaleModelLoader", "MarkdownNote"}


def ui_workflow(name: str) -> dict[str, Any]:
    return json.loads((PACK / "workflows" / f"{name}.json").read_text())


def drop_workflow(page: Page, name: str) -> None:
    types = sorted(node["type"] for node in ui_workflow(name)["nodes"])
    opened_before = opened_workflow(page)
    drop_file(page, PACK / "workflows" / f"{name}.json")
    eventually(lambda: opened_workflow(page) != opened_before)
    assert sorted(node_types(page)) == types


def opened_workflow(page: Page) -> str:
    """Return the unique path of the open workflow. The editor sets it at the end of loading."""
    return page.evaluate("() => window.app.extensionManager.workflow.activeWorkflow.path")


def assert_twin(page: Page, name: str) -> None:
    """Assert that the page would queue the same prompt as the shipped API-format version of a
    workflow. Titles and additional inputs of core nodes may differ, since they depend on the
    version of ComfyUI."""
    prompt, twin = api_prompt(page), load_api_workflow(name)
    for node, spec in twin.items():
        if not spec["class_type"].startswith(OUR_PREFIXES) and node in prompt:
            inputs, prompt[node]["_meta"] = prompt[node]["inputs"], spec["_meta"]
            links = {key for key, value in spec["inputs"].items() if isinstance(value, list)}
            both = spec["inputs"].keys() & (links | inputs.keys())
            spec["inputs"] = {key: spec["inputs"][key] for key in both}
            prompt[node]["inputs"] = {key: inputs[key] for key in both if key in inputs}
    assert prompt == twin


@pytest.mark.parametrize("name", WORKFLOWS)
@in_one_renderer
def test_a_dropped_workflow_becomes_its_api_twin(page: Page, name: str, screenshots: Path) -> None:
    drop_workflow(page, name)
    fit_view(page)
    page.screenshot(path=screenshots / f"{name}.png")
    assert_twin(page, name)
    assert page.locator(".p-dialog").count() == 0, "a dialog reports missing nodes or models"


@in_one_renderer
def test_a_workflow_of_before_has_the_sockets_that_came_later(page: Page) -> None:
    """Workflows saved by the pack's first version lack the output `vae` and the inputs `lr_image`.
    The editor adds them when it loads such a workflow."""
    workflow = ui_workflow("LPNSR PreSet-A")
    for node in workflow["nodes"]:
        node["outputs"] = [o for o in node.get("outputs", []) if o["name"] != "vae"]
        if node["type"] in ("LPNSRSample", "LPNSRDecode"):
            node["inputs"] = [i for i in node["inputs"] if i["name"] != "lr_image"]
    page.evaluate("async workflow => { await window.app.loadGraphData(workflow) }", workflow)
    sockets = page.evaluate(
        """() => Object.fromEntries(window.app.graph.nodes.map(n => [n.type,
        [...(n.inputs ?? []), ...(n.outputs ?? [])].map(s => s.name)]))"""
    )
    assert sockets["LoadLPNSRModels"][-2:] == ["models", "vae"]
    assert "lr_image" in sockets["LPNSRSample"]
    assert "lr_image" in sockets["LPNSRDecode"]
    assert_twin(page, "LPNSR PreSet-A")


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_use_core_nodes_and_ours_and_say_where_weights_come_from(
    name: str, nodes: dict[str, dict[str, Any]]
) -> None:
    used = ui_workflow(name)["nodes"]
    assert {node["type"] for node in used} <= CORE_NODES | nodes.keys()
    assert any(node["type"] == "MarkdownNote" for node in used)
    assert (PACK / "workflows" / f"{name}.jpg").is_file()
    for node in used:
        for model in node["properties"].get("models", []):
            assert model.keys() == {"name", "url", "directory"}
            assert model["name"] in node["widgets_values"]
    named = {model["name"] for node in used for model in node["properties"].get("models", [])}
    loaded = {
        value
        for node in used
        for value in map(str, node.get("widgets_values") or [])
        if value.endswith((".pth", ".safetensors")) and not value.startswith("lpnsr_lite_")
    }
    assert loaded == named


def test_quick_start_gives_a_picture(page: Page, screenshots: Path) -> None:
    drop_workflow(page, "LPNSR quick start")
    fit_view(page)
    run(page)
    eventually(lambda: picture_width(page, node_of(page, "SaveImage")) > 0)
    page.screenshot(path=screenshots / "quick start after a run.png")
    load, save = (picture_width(page, node_of(page, n)) for n in ("LoadImage", "SaveImage"))
    assert save == 4 * load


def test_templates_and_thumbnails_are_served(server: Server) -> None:
    (names,) = (
        names
        for pack, names in server.get("/workflow_templates").items()
        if pack.startswith("LPNSR")
    )
    assert set(WORKFLOWS) <= set(names)
    for name in WORKFLOWS:
        thumbnail = requests.get(
            f"{server.url}/api/workflow_templates/LPNSR/{name}.jpg", timeout=PATIENCE
        )
        assert Image.open(io.BytesIO(thumbnail.content)).width > 300


@in_one_renderer
def test_dragged_in_nodes_have_defaults_that_run(page: Page, web: Server, tmp_path: Path) -> None:
    """ComfyUI runs newly added nodes with the defaults of all widgets. The default model files are
    the released ones, since this server has them."""
    Image.new("RGB", (20, 13), "teal").save(tmp_path / "small.png")
    web.upload(tmp_path / "small.png")
    page.evaluate(
        """() => {
            const app = window.app, make = type => { const n = LiteGraph.createNode(type);
            app.graph.add(n); return n; }; app.graph.clear();
            const [image, models, upscale, save] =
                ['LoadImage', 'LoadLPNSRModels', 'LPNSRUpscale', 'SaveImage'].map(make);
            image.widgets[0].value = 'small.png';
            models.connect(0, upscale, 0); image.connect(0, upscale, 1); upscale.connect(0, save,
            0);
        }"""
    )
    outputs = web.run(api_prompt(page))
    assert len(web.images(outputs)) == 1


@pytest.mark.parametrize("name", sorted(p.stem for p in (PACK / "workflows").glob("*.json")))
def test_nodes_stay_in_their_groups_when_they_have_run(
    page: Page, name: str, screenshots: Path
) -> None:
    """Nodes grow to show a text after a run, but do not extend beyond their groups."""
    drop_workflow(page, name)
    page.evaluate(
        """async () => {
            const {api} = await import("/scripts/api.js");
            const text = "done in 12 s  \\n188x124 to 752x496, 1 tile, 138 MB";
            window.ours = app.graph.nodes.filter(
                node => /^(LPNSR(?!Compare)|ResShift)/.test(node.type));
            for (const {id} of window.ours)
                api.dispatchCustomEvent("progress_text", {nodeId: String(id), text});
        }"""
    )
    fit_view(page)
    page.screenshot(path=screenshots / f"{name}, with texts of nodes.png")
    outside = page.evaluate(
        """() => {
            const ends = ([x, y, width, height]) => [x + width, y + height];
            const holds = (group, [x, y]) => x >= group.pos[0] && y >= group.pos[1] &&
                x < group.pos[0] + group.size[0] && y < group.pos[1] + group.size[1];
            return app.graph.groups.flatMap(group => {
                const [right, bottom] = ends([...group.pos, ...group.size]);
                return window.ours.filter(node => holds(group, node.pos)).filter(node => {
                    const [nodeRight, nodeBottom] = ends([...node.pos, ...node.size]);
                    return nodeRight > right || nodeBottom > bottom;
                }).map(node => `${node.title}: ${node.pos[1] + node.size[1]} > ${bottom}`);
            });
        }"""
    )
    assert outside == [], outside
