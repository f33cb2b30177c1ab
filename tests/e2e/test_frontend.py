"""The pack's JavaScript in a real browser, on the classic canvas and with Nodes 2.0. Screenshots go
to build/screenshots."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page

from tests.eventually import eventually
from tests.host.browser import (
    api_prompt,
    fit_view,
    load_editor,
    look_at,
    node_types,
    wait_for_frames,
    wait_for_nodes,
)
from tests.host.server import PACK, Server

from .conftest import SWINIR
from .editor import (
    NODES_2,
    add,
    clear,
    compare_graph,
    connect,
    divider,
    drag,
    in_one_renderer,
    node_of,
    picture_width,
    record,
    run,
    set_widget,
    undo,
    undo_steps,
    values,
    wait_for_pictures,
    zoom,
)
from .test_browser import drop_workflow
from .test_nodes import BUNDLED_START, WORKFLOWS

SWITCHES = ["predictor_t4", "predictor_t3", "predictor_t2"]


def disabled_widgets(page: Page, node: int) -> set[str]:
    return set(
        page.evaluate(
            """id => app.canvas.graph.getNodeById(id).widgets.filter(w => w.disabled)
                .map(w => w.name)""",
            node,
        )
    )


def click_widget(page: Page, renderer: str, node: int, name: str, x: int, part: str) -> None:
    """Click on a widget. On the classic canvas, the click is `x` units right of the node's left
    edge. With Nodes 2.0, it is on the element in the widget that matches the selector `part`."""
    if renderer == NODES_2:
        widget_row(page, node, name).locator(part).click(force=True)
        return
    place = page.evaluate(
        """([id, name, x]) => {
            const node = app.graph.getNodeById(id);
            const widget = node.widgets.find(w => w.name === name);
            return app.canvasPosToClientPos([node.pos[0] + x, node.pos[1] + widget.y + 10]);
        }""",
        [node, name, x],
    )
    page.mouse.click(*place)


def widget_row(page: Page, node: int, name: str) -> Locator:
    """Return a locator of a widget's row in Nodes 2.0."""
    return page.locator(f"[data-node-id='{node}'] .lg-node-widget:has([aria-label={name}])")


def show_advanced(page: Page, node: int) -> None:
    """Show a node's advanced widgets, which recent versions of Nodes 2.0 hide by default."""
    wait_for_nodes(page)
    button = page.locator(f"[data-node-id='{node}']").get_by_text("Show advanced inputs")
    if button.count():
        button.click()


LESS = "[data-testid=decrement], .p-inputnumber-decrement-button"


# Widgets that are disabled while they have no effect


def test_switches_beyond_steps_are_grey(page: Page, renderer: str, screenshots: Path) -> None:
    node = add(page, "LPNSRSample")
    look_at(page, node)
    show_advanced(page, node)
    assert disabled_widgets(page, node) == set()
    for steps in (3, 2, 1):
        click_widget(page, renderer, node, "steps", 22, LESS)  # the left arrow decreases steps
        eventually(lambda: values(page, node)["steps"], steps)
        idle = set(SWITCHES[: 4 - steps])
        eventually(
            lambda: disabled_widgets(page, node), idle if steps > 1 else {*idle, "predictor_mode"}
        )
    page.screenshot(path=screenshots / "switches.png")
    click_widget(page, renderer, node, "predictor_t2", 100, "[role=switch]")
    wait_for_frames(page)
    assert values(page, node)["predictor_t2"], "a click changed a disabled switch"


@in_one_renderer
def test_predictor_mode_is_grey_where_nothing_is_predicted(page: Page) -> None:
    node = add(page, "LPNSRSample", predictor_t3=False, predictor_t2=False)
    eventually(lambda: disabled_widgets(page, node), set())
    set_widget(page, node, "steps", 3)
    eventually(lambda: disabled_widgets(page, node), {"predictor_t4", "predictor_mode"})
    box = add(page, "LPNSRUpscale")
    eventually(lambda: disabled_widgets(page, box), set())
    set_widget(page, box, "use_predictor", False)
    eventually(lambda: disabled_widgets(page, box), {"predictor_mode"})
    set_widget(page, box, "steps", 1)
    eventually(lambda: disabled_widgets(page, box), {"use_predictor", "predictor_mode"})


@in_one_renderer
def test_factor_is_grey_where_the_longest_side_decides(page: Page) -> None:
    box = add(page, "LPNSRUpscale")
    set_widget(page, box, "longest_side", 3840)
    eventually(lambda: disabled_widgets(page, box), {"factor"})
    set_widget(page, box, "longest_side", 0)
    eventually(lambda: disabled_widgets(page, box), set())


@in_one_renderer
def test_what_is_grey_survives_loading_and_undo(page: Page) -> None:
    node = add(page, "LPNSRSample", steps=2)
    page.evaluate("async () => { await app.loadGraphData(app.graph.serialize()) }")
    eventually(lambda: disabled_widgets(page, node), {"predictor_t4", "predictor_t3"})
    set_widget(page, node, "steps", 4)
    record(page)
    eventually(lambda: disabled_widgets(page, node), set())
    undo(page)
    assert values(page, node)["steps"] == 2
    eventually(lambda: disabled_widgets(page, node), {"predictor_t4", "predictor_t3"})


@in_one_renderer
def test_linked_steps_grey_nothing_out(page: Page) -> None:
    node = add(page, "LPNSRSample", 300, steps=1)
    connect(page, add(page, "PrimitiveInt"), node, "steps")
    eventually(lambda: disabled_widgets(page, node), set())
    page.evaluate("id => app.graph.getNodeById(id).disconnectInput('steps')", node)
    eventually(lambda: disabled_widgets(page, node), {*SWITCHES, "predictor_mode"})


# Preset buttons


def preset(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name)


def pressed(page: Page) -> list[str]:
    return page.locator(".lpnsr-presets button[aria-pressed=true]").all_text_contents()


def start(page: Page, node: int) -> str | None:
    """Return the type of the node connected to the input `upscale_model`, or None."""
    return page.evaluate(
        "id => { const n = app.graph.getNodeById(id); return"
        " n.getInputNode(n.findInputSlot('upscale_model'))?.type ?? null; }",
        node,
    )


def test_presets_set_widgets_and_the_start_of_the_quick_start(
    page: Page, screenshots: Path
) -> None:
    drop_workflow(page, "LPNSR quick start")
    sample, pre_upsample = node_of(page, "LPNSRSample"), node_of(page, "LPNSRPreUpsample")
    look_at(page, sample, 0.8)
    eventually(lambda: pressed(page), ["PreSet-B"])
    set_widget(page, sample, "steps", 2)
    set_widget(page, sample, "seed", 5)
    record(page)
    eventually(lambda: pressed(page), [])
    steps = undo_steps(page)

    preset(page, "PreSet-A").click()
    eventually(lambda: pressed(page), ["PreSet-A"])
    assert start(page, pre_upsample) is None
    assert values(page, sample).items() >= {"steps": 4, "predictor_t2": True, "seed": 5}.items()
    preset(page, "ResShift").click()
    eventually(lambda: pressed(page), ["ResShift"])
    assert not any(values(page, sample)[name] for name in SWITCHES)
    eventually(lambda: disabled_widgets(page, sample), {"predictor_mode"})
    preset(page, "PreSet-B").click()
    eventually(lambda: pressed(page), ["PreSet-B"])
    assert start(page, pre_upsample) == "UpscaleModelLoader"
    assert len(node_types(page)) == 10, "a second loader was added"
    page.screenshot(path=screenshots / "presets.png")

    assert undo_steps(page) == steps + 3
    for name in ("ResShift", "PreSet-A"):
        undo(page)
        eventually(lambda: pressed(page), [name])
    undo(page)
    eventually(lambda: pressed(page), [])
    assert values(page, sample)["steps"] == 2


def test_preset_b_adds_an_upscale_model_where_there_is_none(page: Page, screenshots: Path) -> None:
    image = add(page, "LoadImage", -320)
    node = add(page, "LPNSRUpscale", 300, use_predictor=False)
    look_at(page, node)
    # Wait until Load Image shows its picture: the node grows then, which would add an undo step.
    eventually(lambda: picture_width(page, image) > 0)
    wait_for_frames(page)
    record(page)
    eventually(lambda: pressed(page), ["ResShift"])
    steps = undo_steps(page)
    preset(page, "PreSet-B").click()
    eventually(lambda: pressed(page), ["PreSet-B"])
    assert start(page, node) == "UpscaleModelLoader"
    page.screenshot(path=screenshots / "PreSet-B adds a loader.png")
    prompt = api_prompt(page)
    loader, _ = prompt[str(node)]["inputs"]["upscale_model"]
    assert prompt[loader]["inputs"]["model_name"] in (BUNDLED_START, SWINIR)
    assert undo_steps(page) == steps + 1
    undo(page)
    eventually(lambda: pressed(page), ["ResShift"])
    assert len(node_types(page)) == 2


@in_one_renderer
def test_presets_leave_links_to_widgets_alone(page: Page) -> None:
    node = add(page, "LPNSRUpscale", 300, kappa=1)
    connect(page, add(page, "PrimitiveInt"), node, "steps")
    fit_view(page)  # the node may extend beyond the page
    preset(page, "PreSet-A").click()
    eventually(lambda: values(page, node)["kappa"], 2)
    assert page.evaluate("id => app.graph.getNodeById(id).inputs.some(i => i.link)", node)
    wait_for_frames(page)
    assert pressed(page) == [], "steps is linked, so its value is unknown"


# The editor without the pack's JavaScript, and tests for Nodes 2.0


@pytest.fixture
def bare(page: Page, web: Server) -> Iterator[Page]:
    """A page with the editor, but without the pack's JavaScript."""
    assert page.context.browser
    bare = page.context.browser.new_page()
    bare.route("**/extensions/LPNSR/**", lambda route: route.abort())
    load_editor(bare, web)
    yield bare
    bare.close()


def saved(page: Page, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Load a shipped workflow. Returns the workflow that the page would save, and the prompt that
    it would queue."""
    drop_workflow(page, name)
    fit_view(page)
    workflow = page.evaluate("() => app.graph.serialize()")
    del workflow["id"], workflow["extra"]["ds"]
    # If a node's only widget is an unsaved one of the pack, its list of values is empty. Treat that
    # like a missing list.
    for node in workflow["nodes"]:
        for key in ("widgets_values", "widgets_values_named"):
            node[key] = node.get(key) or None
    return workflow, api_prompt(page)


# Not tested with Nodes 2.0, which move nodes without user input in front end 1.32.
@in_one_renderer
def test_workflows_are_saved_the_same_without_it(page: Page, bare: Page) -> None:
    for name in WORKFLOWS:
        without, with_it = saved(bare, name), saved(page, name)
        for a, b in zip(without[0]["nodes"], with_it[0]["nodes"], strict=True):
            assert a == b
        assert without == with_it
    assert bare.locator(".lpnsr-presets").count() == 0


def test_pictures_are_shown_without_it(bare: Page, screenshots: Path) -> None:
    clear(bare)
    compare = compare_graph(bare, ("lr.png", "sr.png"))
    run(bare)
    eventually(lambda: picture_width(bare, compare), 752)
    bare.screenshot(path=screenshots / "compare without the extension.png")


@in_one_renderer
def test_it_works_where_translations_fail(page: Page, web: Server) -> None:
    assert page.context.browser
    english = page.context.browser.new_page()
    english.route("**/i18n", lambda route: route.abort())
    load_editor(english, web)
    clear(english)
    node = add(english, "LPNSRSample", steps=3)
    look_at(english, node)
    eventually(lambda: disabled_widgets(english, node), {"predictor_t4"})
    preset(english, "PreSet-A").click()
    eventually(lambda: values(english, node)["steps"], 4)
    english.close()


def test_it_imports_and_reads_what_packs_may() -> None:
    code = {path.name: path.read_text("utf-8") for path in (PACK / "js").glob("*.js")}
    imports = {name for text in code.values() for name in re.findall(r'from "(.*?)"', text)}
    assert imports - {f"./{name}" for name in code} == {
        "../../scripts/api.js",
        "../../scripts/app.js",
    }
    for name, text in code.items():
        assert not re.search(r"\.links?\b|\binputEl\b|\.badges\b", text), name


def opacity(page: Page, node: int, widget: str) -> float:
    row = widget_row(page, node, widget)
    return float(row.evaluate("e => getComputedStyle(e).opacity"))


@pytest.mark.parametrize("renderer", [NODES_2], indirect=True)
def test_presets_set_widgets_that_are_not_shown(page: Page, screenshots: Path) -> None:
    node = add(page, "LPNSRUpscale")
    look_at(page, node, 1)
    button = page.locator(f"[data-node-id='{node}']").get_by_text("Show advanced inputs")
    shown = [widget_row(page, node, name) for name in ("steps", "kappa", "overlap", "wrap")]
    page.screenshot(path=screenshots / "advanced, hidden.png")
    count = 1 if button.count() else 4  # older front ends hide no widgets
    eventually(lambda: sum(row.count() for row in shown), count)
    preset(page, "ResShift").click()
    eventually(lambda: values(page, node)["use_predictor"], False)
    show_advanced(page, node)
    eventually(lambda: sum(row.count() for row in shown), 4)
    page.screenshot(path=screenshots / "advanced.png")


@pytest.mark.parametrize("renderer", [NODES_2], indirect=True)
def test_nodes_2(page: Page, screenshots: Path) -> None:
    compare = compare_graph(page, ("lr.png", "sr.png"))
    sample = add(page, "LPNSRSample", 1300)
    look_at(page, sample, 1)  # center the node, so that no panel covers it
    show_advanced(page, sample)
    eventually(lambda: opacity(page, sample, "predictor_t4"), 1)
    set_widget(page, sample, "steps", 3)
    eventually(lambda: opacity(page, sample, "predictor_t4"), 0.5)
    assert opacity(page, sample, "predictor_t3") == 1
    preset(page, "ResShift").click()
    eventually(lambda: opacity(page, sample, "predictor_t4"), 1)
    eventually(lambda: opacity(page, sample, "predictor_mode"), 0.5)

    fit_view(page)
    run(page)
    wait_for_pictures(page)
    page.screenshot(path=screenshots / "Nodes 2.0.png")
    shown = page.locator(f"[data-node-id='{compare}'] img:visible")
    eventually(shown.count, 2)
    place = page.evaluate("id => [...app.graph.getNodeById(id).pos]", compare)
    drag(page, 0.5, 0.25)
    eventually(lambda: divider(page), 25)
    page.mouse.wheel(0, -600)
    eventually(lambda: zoom(page), 4)
    assert page.evaluate("id => [...app.graph.getNodeById(id).pos]", compare) == place
