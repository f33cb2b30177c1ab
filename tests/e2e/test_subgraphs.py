"""The pack's nodes inside subgraphs, in a real browser. Screenshots go to build/screenshots."""

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.eventually import eventually
from tests.host.browser import api_prompt, look_at, wait_for_frames, wait_for_nodes
from tests.host.server import PACK

from .editor import add, compare_graph, record, run, set_widget, values, wait_for_pictures
from .test_frontend import disabled_widgets, preset, pressed, show_advanced

BLUEPRINT = PACK / "subgraphs" / "LPNSR upscale x4 (PreSet-B).json"
PROMOTED = {
    "LPNSRSample": ("steps", "predictor_t4", "predictor_t3", "predictor_t2", "predictor_mode"),
    "LPNSRUpscale": ("steps", "use_predictor", "predictor_mode", "longest_side", "factor"),
}


def to_subgraph(page: Page, node: int, promoted: tuple[str, ...] = ()) -> int:
    """Convert a node to a subgraph, and expose the widgets named in `promoted` as inputs of the
    subgraph. Return the id of the subgraph node."""
    outer = page.evaluate(
        """([id, names]) => {
            const node = app.graph.getNodeById(id);
            const {node: outer, subgraph} = app.graph.convertToSubgraph(new Set([node]));
            const inner = subgraph.nodes[0];
            for (const name of names) {
                const slot = inner.inputs.find(input => input.name === name);
                subgraph.addInput(name, slot.type).connect(slot, inner);
            }
            return outer.id;
        }""",
        [node, promoted],
    )
    record(page)
    wait_for_frames(page)
    return outer


def look_inside(page: Page, outer: int) -> int:
    """Open a subgraph, and return the id of its last node, which is the pack's node."""
    node = page.evaluate(
        """id => {
            const outer = app.graph.getNodeById(id);
            app.canvas.openSubgraph(outer.subgraph, outer);
            return outer.subgraph.nodes.at(-1).id;
        }""",
        outer,
    )
    eventually(lambda: page.evaluate("() => !app.canvas.graph.isRootGraph"))
    look_at(page, node)
    return node


def look_outside(page: Page) -> None:
    page.evaluate("() => app.canvas.setGraph(app.canvas.graph.rootGraph)")
    wait_for_frames(page)


def inside(page: Page, outer: int) -> dict[str, Any]:
    """Return the inputs that a run would pass to the pack's node in a subgraph."""
    prompt = api_prompt(page)
    return next(
        node["inputs"]
        for id, node in prompt.items()
        if id.startswith(f"{outer}:") and node["class_type"] in PROMOTED
    )


@pytest.mark.parametrize("node_type", PROMOTED)
def test_what_is_grey_follows_the_values_outside(
    page: Page, node_type: str, screenshots: Path
) -> None:
    outer = to_subgraph(page, add(page, node_type), PROMOTED[node_type])
    idle = set(PROMOTED[node_type][1:]) - {"longest_side", "factor"}
    set_widget(page, outer, "steps", 1)
    record(page)
    inner = look_inside(page, outer)
    show_advanced(page, inner)
    eventually(lambda: disabled_widgets(page, inner) & set(PROMOTED[node_type]), idle)
    page.screenshot(path=screenshots / f"{node_type} in a subgraph.png")
    assert inside(page, outer)["steps"] == 1
    look_outside(page)
    set_widget(page, outer, "steps", 4)
    record(page)
    look_inside(page, outer)
    eventually(lambda: disabled_widgets(page, inner) & set(PROMOTED[node_type]), set())
    assert inside(page, outer)["steps"] == 4


def to_nodes(page: Page, outer: int) -> int:
    """Unpack a subgraph of one node, and return the id of that node."""
    node = page.evaluate(
        """id => {
            app.graph.unpackSubgraph(app.graph.getNodeById(id));
            return app.graph.nodes.at(-1).id;
        }""",
        outer,
    )
    record(page)
    wait_for_nodes(page)
    return node


def assert_no_empty_space(page: Page, node: int) -> None:
    """Assert that a subgraph node has no widgets of the pack and no empty space for them. The space
    is not checked with Nodes 2.0, where the front end sets the height of nodes."""
    name, height, least = page.evaluate(
        """id => {
            const node = app.canvas.graph.getNodeById(id);
            const ours = (node.widgets ?? []).find(w => w.name.startsWith("lpnsr_"));
            return [ours?.name ?? null, node.size[1], node.computeSize()[1]];
        }""",
        node,
    )
    assert name is None
    if not page.evaluate("() => LiteGraph.vueNodesMode"):
        assert height <= least + 10


@pytest.mark.parametrize("node_type", PROMOTED)
def test_buttons_go_into_a_subgraph_and_come_back(
    page: Page, node_type: str, screenshots: Path
) -> None:
    node = add(page, node_type, steps=3, seed=5)
    look_at(page, node)
    buttons = page.locator(".lpnsr-presets:visible")
    eventually(buttons.count, 1)
    before = size(page, node)
    outer = to_subgraph(page, node)
    look_at(page, outer)
    eventually(buttons.count, 0)
    assert_no_empty_space(page, outer)
    page.screenshot(path=screenshots / f"{node_type} outside its subgraph.png")
    look_inside(page, outer)
    eventually(buttons.count, 1)
    preset(page, "ResShift").click()
    eventually(lambda: pressed(page), ["ResShift"])
    look_outside(page)
    node = to_nodes(page, outer)
    look_at(page, node)
    eventually(buttons.count, 1)
    assert values(page, node).items() >= {"steps": 4, "seed": 5}.items()
    assert size(page, node)[1] == pytest.approx(before[1], abs=10)
    page.screenshot(path=screenshots / f"{node_type} back from its subgraph.png")


def size(page: Page, node: int) -> tuple[float, float]:
    return page.evaluate("id => [...app.canvas.graph.getNodeById(id).size]", node)


def test_the_slider_goes_into_a_subgraph_and_comes_back(page: Page, screenshots: Path) -> None:
    compare = compare_graph(page, ("lr.png", "sr.png"))
    before = size(page, compare)
    outer = to_subgraph(page, compare)
    look_at(page, outer)
    run(page)
    eventually(lambda: page.evaluate("() => app.ui.lastQueueSize"), 0)
    page.screenshot(path=screenshots / "slider, outside its subgraph.png")
    look_inside(page, outer)
    wait_for_pictures(page)
    page.screenshot(path=screenshots / "slider in a subgraph.png")
    look_outside(page)
    compare = to_nodes(page, outer)
    look_at(page, compare)
    run(page)
    wait_for_pictures(page)
    assert size(page, compare) == pytest.approx(before, abs=10)


def test_presets_set_the_values_outside(page: Page) -> None:
    outer = to_subgraph(page, add(page, "LPNSRUpscale"), ("steps", "use_predictor"))
    set_widget(page, outer, "steps", 1)
    look_inside(page, outer)
    preset(page, "ResShift").click()
    eventually(lambda: pressed(page), ["ResShift"])
    assert inside(page, outer).items() >= {"steps": 4, "use_predictor": False}.items()
    look_outside(page)
    assert values(page, outer).items() >= {"steps": 4, "use_predictor": False}.items()


def test_the_blueprint_follows_the_values_outside(page: Page, screenshots: Path) -> None:
    blueprint = json.loads(BLUEPRINT.read_text())
    page.evaluate("async blueprint => { await app.loadGraphData(blueprint) }", blueprint)
    (outer,) = page.evaluate("() => app.graph.nodes.map(node => node.id)")
    look_at(page, outer)
    page.screenshot(path=screenshots / "blueprint.png")
    names = {name.rpartition(" ")[2]: name for name in values(page, outer)}
    assert names.keys() == {"seed", "steps"}
    assert_no_empty_space(page, outer)
    set_widget(page, outer, names["steps"], 1)
    set_widget(page, outer, names["seed"], 8)
    record(page)
    assert inside(page, outer).items() >= {"steps": 1, "seed": 8}.items()
    inner = look_inside(page, outer)
    show_advanced(page, inner)
    idle = {"use_predictor", "predictor_mode"}
    eventually(lambda: disabled_widgets(page, inner) & set(PROMOTED["LPNSRUpscale"]), idle)
    page.screenshot(path=screenshots / "blueprint, inside.png")
