"""LPNSR Compare: its outputs, and its slider in a real browser. Screenshots go to
build/screenshots."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch
from PIL import Image
from playwright.sync_api import Page
from torch import Tensor

from lpnsr_impl.pictures.edges import resample
from tests.eventually import PATIENCE, eventually
from tests.host.browser import look_at, wait_for_frames
from tests.host.install import FrontEnd
from tests.host.server import PromptError, Server

from .conftest import Graph, random_image
from .editor import (
    CLASSIC,
    add,
    clear,
    compare_graph,
    divider,
    drag,
    in_one_renderer,
    record,
    run,
    slider,
    stage_point,
    undo,
    wait_for_pictures,
    zoom,
)


def test_pairs_are_of_the_results_size(graph: Graph) -> None:
    lr, result = random_image(2, 5, 4, 3), random_image(2, 20, 16, 3, seed=1)
    pictures = shown(graph, graph.server.run(compare_prompt(graph, lr, result))["compare"])
    for i in range(2):
        before, after = pictures[2 * i : 2 * i + 2]
        assert torch.equal(after, (result[i] * 255).byte())
        bicubic = resample(lr[i : i + 1].movedim(-1, 1), 20, 16).clamp(0, 1)[0].movedim(0, -1)
        assert torch.equal(before, (bicubic * 255).byte())


def test_the_result_is_passed_on(graph: Graph) -> None:
    lr, result = random_image(1, 5, 4, 3), random_image(1, 20, 16, 4, seed=1)
    assert torch.equal(graph.run(compare_prompt(graph, lr, result), "compare"), result)


def test_alpha_is_compared_where_both_have_it(graph: Graph) -> None:
    lr, result = random_image(1, 5, 4, 4), random_image(1, 20, 16, 4)
    for r, mode in ((result, "RGBA"), (result[..., :3], "RGB")):
        output = graph.server.run(compare_prompt(graph, lr, r))["compare"]
        for image in output["images"]:
            answer = requests.get(graph.server.url + "/view", image, timeout=PATIENCE)
            assert Image.open(io.BytesIO(answer.content)).mode == mode


def shown(graph: Graph, outputs: dict[str, Any]) -> list[Tensor]:
    """Download the pictures of LPNSR Compare as uint8 [H,W,C], in the order LR, result, LR, result,
    ..."""
    url = graph.server.url + "/view"
    files = [requests.get(url, image, timeout=PATIENCE).content for image in outputs["images"]]
    return [torch.from_numpy(np.array(Image.open(io.BytesIO(file)))) for file in files]


def test_an_lr_image_of_another_shape_is_fitted_and_said(graph: Graph) -> None:
    lr, result = random_image(1, 10, 10, 3), random_image(1, 20, 40, 3, seed=1)
    outputs = graph.server.run(compare_prompt(graph, lr, result))["compare"]
    before, _ = shown(graph, outputs)
    bicubic = resample(lr.movedim(-1, 1), 20, 20).clamp(0, 1)[0].movedim(0, -1)
    assert torch.equal(before[:, 10:30], (bicubic * 255).byte())
    assert before[:, :10].max() == before[:, 30:].max() == 0
    assert outputs["fitted"] == [[10, 10]]
    assert "lr_image is 10x10 and image is 40x20" in graph.server.tail()


@pytest.mark.parametrize(("width", "height"), [(1920, 1079), (1920, 1080), (34, 19), (854, 480)])
def test_a_rounded_side_is_not_another_shape(graph: Graph, width: int, height: int) -> None:
    lr, result = 0.5 + random_image(1, 480, 854, 3) / 2, random_image(1, height, width, 3)
    prompt = compare_prompt(graph, lr, result)
    outputs = graph.server.run(prompt)["compare"]
    assert outputs["fitted"] == []
    assert shown(graph, outputs)[0].min() > 0, "the LR picture has a black bar"


def test_it_takes_less_memory_than_the_result(graph: Graph) -> None:
    """The node must need less additional memory than twice the size of the result. Processing all
    pairs at once needed 5 to 6 times the size."""
    lr, result = torch.rand(1, 128, 128, 3), torch.rand(1, 512, 512, 3)
    small = compare_prompt(graph, lr, result)
    graph.server.run(small)
    lr, result = lr.expand(32, -1, -1, -1), result.expand(32, -1, -1, -1)
    process = Path(f"/proc/{graph.server.process.pid}")
    (process / "clear_refs").write_text("5")  # resets the peak of resident memory
    before = peak_resident_bytes(process)
    graph.server.run(compare_prompt(graph, lr, result))
    grown = peak_resident_bytes(process) - before
    assert grown < 2 * result.numel() * result.element_size()


def peak_resident_bytes(process: Path) -> int:
    """Return the peak resident memory in bytes. `process` is the folder of a process in /proc."""
    lines = (process / "status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


def test_cancel_ends_it_between_two_pairs(graph: Graph) -> None:
    count = 150
    lr = torch.rand(1, 8, 8, 3).expand(count, -1, -1, -1)
    result = torch.rand(1, 512, 512, 3).expand(count, -1, -1, -1)
    temp = graph.server.base / "temp"
    before = len(list(temp.glob("*.png")))
    prompt_id = graph.server.queue(compare_prompt(graph, lr, result))
    eventually(lambda: len(list(temp.glob("*.png"))) > before)
    graph.server.post("/interrupt", {})
    with pytest.raises(PromptError, match="interrupted"):
        graph.server.wait(prompt_id)
    assert len(list(temp.glob("*.png"))) < before + 2 * count


def test_unequal_batches_are_refused(graph: Graph) -> None:
    prompt = compare_prompt(graph, random_image(1, 5, 4, 3), random_image(2, 20, 16, 3))
    with pytest.raises(PromptError, match="image has 2 pictures and lr_image has 1, expected"):
        graph.server.run(prompt)


def compare_prompt(graph: Graph, lr: Tensor, result: Tensor) -> dict[str, Any]:
    inputs = {"image": ["result", 0], "lr_image": ["lr", 0]}
    return {
        "lr": graph.picture(lr, "compare_lr.safetensors"),
        "result": graph.picture(result, "compare_result.safetensors"),
        "compare": {"class_type": "LPNSRCompare", "inputs": inputs},
    }


# The slider in the editor


def show_files(page: Page, node: int, *names: str) -> None:
    """Show pictures of the input folder in LPNSR Compare, as if they came from a run."""
    page.evaluate(
        """([id, names]) => {
            app.nodeOutputs[id] = {images: names.map(filename => ({filename, type: 'input'}))};
            app.graph.getNodeById(id).onExecuted(app.nodeOutputs[id]);
        }""",
        [node, names],
    )


def compare_files(page: Page, *names: str) -> int:
    """Add LPNSR Compare, show pictures of the input folder in it, and return its id."""
    compare = add(page, "LPNSRCompare")
    look_at(page, compare)
    show_files(page, compare, *names)
    return compare


def centres(page: Page) -> list[list[int]]:
    """Return which point of each picture is shown in the middle of the slider, in pixels of the
    picture. Unlike the pictures' transforms, it does not depend on the size of the slider."""
    script = """all => all.map((image) => {
        const { a, e, f } = new DOMMatrix(image.style.transform);
        const { clientWidth, clientHeight } = image.closest(".lpnsr-stage");
        return [(clientWidth / 2 - e) / a, (clientHeight / 2 - f) / a].map(Math.round);
    })"""
    return page.eval_on_selector_all(".lpnsr-side img", script)


@in_one_renderer
def test_another_shape_is_said_below_the_slider(page: Page, web: Server, screenshots: Path) -> None:
    Image.new("RGB", (64, 64), "teal").save(web.base / "input" / "square.png")
    compare_graph(page, ("square.png", "sr.png"))
    run(page)
    wait_for_pictures(page)
    size = "64 \N{MULTIPLICATION SIGN} 64"
    note = f"The LR image ({size}) has another aspect ratio and is shown with bars."
    page.get_by_text(note).wait_for()
    page.screenshot(path=screenshots / "slider, another shape.png")


def test_slider_of_a_run(page: Page, screenshots: Path) -> None:
    compare = compare_graph(page, ("lr.png", "sr.png"))
    page.get_by_text("Run the workflow to compare.").wait_for()
    assert not slider(page).is_visible()
    run(page)
    wait_for_pictures(page)
    page.screenshot(path=screenshots / "slider.png")
    for label in ("LR, bicubic", "LPNSR"):
        page.locator(".lpnsr-side").get_by_text(label, exact=True).wait_for()
    assert page.locator(".lpnsr-info").text_content() == "752 \N{MULTIPLICATION SIGN} 496"
    shown = page.evaluate("id => app.graph.getNodeById(id).widgets.length", compare)
    assert shown == 1, "the host shows its own preview, too"
    menu = page.evaluate(
        """id => {
            const options = [];
            app.graph.getNodeById(id).getExtraMenuOptions(app.canvas, options);
            return options.map(option => option?.content);
        }""",
        compare,
    )
    assert {"Open Image", "Save Image"} <= set(menu)

    assert divider(page) == 50
    drag(page, 0.5, 0.25)
    eventually(lambda: divider(page), 25)
    slider(page).focus()
    for key, place in (("ArrowRight", 27), ("PageDown", 17), ("End", 100), ("Home", 0)):
        page.keyboard.press(key)
        eventually(lambda: divider(page), place)
    assert slider(page).get_attribute("aria-valuetext") == "0 % LR, bicubic"

    record(page)
    set_position = "id => { app.graph.getNodeById(id).pos[0] += 50 }"
    page.evaluate(set_position, compare)
    record(page)
    undo(page)
    wait_for_pictures(page)  # undo creates the node again, which shows the pictures of the run
    page.evaluate("async () => { await app.loadGraphData(app.graph.serialize()) }")
    page.get_by_text("Run the workflow to compare.").wait_for()


def pan(page: Page, a: float, b: float, *, middle: bool) -> None:
    """Pan the pictures from a to b, in fractions of the slider's width, by dragging with the middle
    mouse button or with Shift."""
    if middle:
        drag(page, a, b, button="middle")
    else:
        page.keyboard.down("Shift")
        drag(page, a, b)
        page.keyboard.up("Shift")
    wait_for_frames(page)


def test_zoom_and_pan_move_both_pictures(
    page: Page, renderer: str, front_end: FrontEnd, screenshots: Path
) -> None:
    # With Nodes 2.0, only one of the two gestures pans the pictures: in front end 1.32, dragging
    # with Shift moves the node; in later ones, dragging with the middle button moves the canvas.
    old = front_end.version.startswith("1.32.")
    ways = (False, True) if renderer == CLASSIC else (old, old)
    compare_files(page, "sr.png", "sr.png")
    wait_for_pictures(page)
    fitted = centres(page)
    assert fitted[0] == fitted[1]
    scale = page.evaluate("() => app.canvas.ds.scale")
    slider(page).focus()  # since Nodes 2.0 send wheel events to the focused element
    page.mouse.move(*stage_point(page, 0.3))
    page.mouse.wheel(0, -600)
    eventually(lambda: zoom(page), 4)
    zoomed = centres(page)
    assert zoomed[0] == zoomed[1] != fitted[0]
    assert page.evaluate("() => app.canvas.ds.scale") == scale, "the canvas zoomed too"
    page.screenshot(path=screenshots / "slider, zoomed.png")

    pan(page, 0.5, 0.4, middle=ways[0])
    panned = centres(page)
    assert panned[0] == panned[1] != zoomed[0]
    pan(page, 0.4, 0.5, middle=ways[1])
    eventually(lambda: centres(page), zoomed)
    assert divider(page) == 50, "panning moved the divider"

    page.mouse.dblclick(*stage_point(page, 0.8))
    eventually(lambda: zoom(page), 1)
    eventually(lambda: centres(page), fitted)
    assert divider(page) == 50, "a double click moved the divider"
    slider(page).focus()
    page.keyboard.press("+")
    eventually(lambda: zoom(page) > 1)
    page.get_by_role("button", name="Fit", exact=True).click()
    eventually(lambda: zoom(page), 1)


def test_a_node_that_is_gone_leaves_the_slider_of_the_next(page: Page) -> None:
    """A new node may have the id of a removed one, for example after undo. A late event of the
    removed node must not remove the slider of the new one."""
    shown = "document.querySelector('.lpnsr-compare')"
    old = compare_files(page, "sr.png", "sr.png")
    wait_for_pictures(page)
    page.evaluate("id => { window.gone = app.graph.getNodeById(id) }", old)
    clear(page)
    eventually(lambda: page.evaluate(f"() => {shown}"), None)
    assert compare_files(page, "sr.png", "sr.png") == old
    wait_for_pictures(page)
    page.evaluate(f"() => {{ window.next = {shown}; window.gone.onConnectionsChange(); }}")
    assert page.evaluate(f"() => window.next === {shown}")


def test_two_fingers_zoom(page: Page) -> None:
    compare_files(page, "sr.png", "sr.png")
    wait_for_pictures(page)
    cdp = page.context.new_cdp_session(page)

    def touch(kind: str, *places: float) -> None:
        points = [dict(zip("xy", stage_point(page, place), strict=True)) for place in places]
        cdp.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", 0.4, 0.6)
    touch("touchMove", 0.3, 0.7)
    touch("touchEnd")
    eventually(lambda: zoom(page), pytest.approx(2, abs=0.1))
    touch("touchStart", 0.5)
    touch("touchMove", 0.2)
    touch("touchEnd")
    eventually(lambda: divider(page), 20)


@in_one_renderer
def test_full_screen(page: Page, screenshots: Path) -> None:
    compare_files(page, "sr.png", "sr.png")
    wait_for_pictures(page)
    image = page.locator(".lpnsr-side img").first
    fitted = image.get_attribute("style")
    page.get_by_role("button", name="Full screen").click()
    page.wait_for_function("() => document.fullscreenElement?.matches('.lpnsr-compare')")
    eventually(lambda: image.get_attribute("style") != fitted)
    page.screenshot(path=screenshots / "slider, full screen.png")
    page.get_by_role("button", name="Full screen").click()
    page.wait_for_function("() => !document.fullscreenElement")


@in_one_renderer
def test_pictures_of_a_batch_are_picked(page: Page, screenshots: Path) -> None:
    compare_graph(page, ("lr.png", "sr.png"), ("sr.png", "lr.png"))
    run(page)
    wait_for_pictures(page)
    page.screenshot(path=screenshots / "slider of a batch.png")
    picker = page.locator(".lpnsr-picker output")

    def shown() -> str | None:
        return page.locator(".lpnsr-side img").first.get_attribute("src")

    first = shown()
    assert picker.text_content() == "1 / 2"
    page.get_by_role("button", name="Next picture").click()
    eventually(lambda: shown() != first)
    assert picker.text_content() == "2 / 2"
    page.get_by_role("button", name="Next picture").click()
    eventually(shown, first)


@pytest.fixture
def decoding(page: Page) -> Iterator[Page]:
    """A page that decodes pictures only after a call of `window.startDecoding()`. Decoded pictures
    get the attribute data-decoded."""
    page.evaluate(
        """() => {
            const prototype = HTMLImageElement.prototype, {decode} = prototype;
            const started = new Promise(resolve => { window.startDecoding = resolve; });
            window.restoreDecoding = () => { prototype.decode = decode; };
            prototype.decode = async function () {
                await started;
                await decode.call(this);
                this.dataset.decoded = "";
            };
        }"""
    )
    yield page
    page.evaluate("() => window.restoreDecoding()")


@in_one_renderer
def test_pictures_are_decoded_before_they_are_shown(decoding: Page) -> None:
    """The slider shows pictures only after they are decoded, since the browser would otherwise
    decode a large picture while it draws the page, and freeze."""
    compare_files(decoding, "sr.png", "sr.png")
    wait_for_frames(decoding)
    assert decoding.locator(".lpnsr-side img").count() == 0
    decoding.evaluate("() => window.startDecoding()")
    wait_for_pictures(decoding)
    assert decoding.locator(".lpnsr-side img[data-decoded]").count() == 2


@in_one_renderer
def test_pictures_that_are_gone_are_told(page: Page) -> None:
    compare_files(page, "no_such.png", "lr.png")
    page.get_by_text("The pictures are no longer there. Run the workflow again.").wait_for()
