"""Reports and texts that nodes show in the editor. Screenshots go to build/screenshots."""

import re
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.eventually import eventually
from tests.host.browser import api_prompt, fit_view, load_editor, look_at
from tests.host.server import Server

from .editor import add, connect, node_of, record, run, set_widget, undo


def command(page: Page, name: str) -> None:
    page.evaluate("name => app.extensionManager.command.execute(name)", name)


def finish(page: Page) -> None:
    """Run the workflow, and wait until it is done."""
    page.evaluate("() => window.finished = false")
    page.evaluate(
        "() => comfyAPI.api.api.addEventListener('execution_success',"
        " () => window.finished = true, {once: true})"
    )
    run(page)
    eventually(lambda: page.evaluate("() => window.finished"))


def evict_loaders(web: Server) -> None:
    """Run another prompt to evict loaders from the cache, since ComfyUI sends no texts for cached
    nodes."""
    web.run({"memory": {"class_type": "ProbeMemory", "inputs": {}}})


def test_a_report_is_shown_on_its_node(page: Page, screenshots: Path) -> None:
    node = add(page, "LPNSRDownloadModels", files="noise_predictor.pth", accept_licences=True)
    look_at(page, node)
    report = page.get_by_placeholder("Run the workflow for a report.")
    expect(report).to_be_visible()
    queued = api_prompt(page)
    finish(page)
    page.screenshot(path=screenshots / "report.png")
    text = report.input_value()
    assert "noise_predictor.pth: already there, " in text
    report.click()
    page.keyboard.press("x")
    assert report.input_value() == text, "the report can be edited"
    assert api_prompt(page) == queued


def test_a_report_outlasts_other_workflows_and_a_reload(
    page: Page, web: Server, screenshots: Path
) -> None:
    evict_loaders(web)
    node = add(page, "LPNSRDoctor")
    loader = add(page, "LoadLPNSRModels", 0, 600, precision="fp32")
    connect(page, loader, add(page, "PreviewAny", 500, 600), "source")
    record(page)
    fit_view(page)
    finish(page)
    report, line = page.locator(".lpnsr-report"), page.locator(".lpnsr-line")
    expect(report).to_have_value(re.compile("LPNSR doctor"))
    text = report.input_value()
    command(page, "Comfy.NewBlankWorkflow")
    expect(report).to_have_count(0)
    add(page, "LPNSRDoctor")
    expect(report).to_have_value("")
    command(page, "Workspace.PreviousOpenedWorkflow")
    expect(report).to_have_value(text)
    load_editor(page, web)
    expect(report).to_have_value(text)
    expect(line).to_have_text("family released")
    assert node_of(page, "LPNSRDoctor") == node
    page.screenshot(path=screenshots / "report after a reload.png")


def test_the_loader_tells_the_family(page: Page, web: Server, screenshots: Path) -> None:
    evict_loaders(web)
    loader = add(page, "LoadLPNSRModels", precision="fp32")
    connect(page, loader, add(page, "PreviewAny", 400), "source")
    look_at(page, loader)
    line = page.locator(".lpnsr-line")
    size = page.evaluate("id => [...app.graph.getNodeById(id).size]", loader)
    expect(line).to_have_text("")
    finish(page)
    expect(line).to_have_text("family released")
    expect(line).to_be_visible()
    page.screenshot(path=screenshots / "family.png")
    assert page.evaluate("id => app.graph.getNodeById(id).size[0]", loader) == size[0]
    record(page)
    set_widget(page, loader, "precision", "bf16")
    record(page)
    undo(page)
    expect(line).to_have_text("family released")
    connect(page, loader, add(page, "PreviewAny", 400, 300), "source")
    finish(page)  # the loader's result comes from the cache
    expect(line).to_have_text("family released")
