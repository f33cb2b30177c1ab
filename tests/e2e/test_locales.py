"""Translations and help pages: they are complete, and ComfyUI's editor shows them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.host.browser import load_editor, open_help
from tests.host.locales import LOCALES, TRANSLATIONS, Texts, node_texts, read
from tests.host.server import PACK, Server

from .editor import add, in_one_renderer, set_setting, watch_editor

DOCS = PACK / "js" / "docs"
LARGEST_PICTURE = 200_000
NODES = sorted({place[0] for place in read("en")})

_CHINESE_OR_JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")
_SAME_IN_EVERY_LANGUAGE = {"VAE", "Latent", "LR-PSNR"}
_FILE = re.compile(r"[\w-]*[_/][\w./-]*|\w+\.(?:pth|part)")
_TERMS = re.compile(
    r"LPNSR|ResShift|SinSR|RSD|PreSet-[AB]|LR|PSNR|LR-PSNR|dB|GB|RGBA|ComfyUI|[CG]PU|VAE|Latent|VQ-f|matplotlib"
    r"|torch|compile|S-Lab|Apache-|MIT|SHA-|kappa|issue|none|sample|mean|wavelet|adain|auto|fp|bf"
    r"|both|[stnRxyK]"
)


def rows(language: str) -> list[tuple[str, str]]:
    """Read the glossary in locales/README.md as pairs (English, translation)."""
    _, _, table = (LOCALES / "README.md").read_text("utf-8").partition("| en | zh | ja |\n")
    cells = [line.strip("| ").split(" | ") for line in table.splitlines()[1:]]
    return [(row[0], row[1 + TRANSLATIONS.index(language)]) for row in cells]


def test_english_is_what_the_nodes_say(server: Server) -> None:
    """locales/en has the current texts of the nodes. If this test fails, run `python -m
    tests.host.locales`."""
    assert read("en") == node_texts(server)


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_every_text_of_the_nodes_is_translated(language: str) -> None:
    english, translated = read("en"), read(language)
    assert translated.keys() == english.keys()
    for place, text in translated.items():
        assert text in _SAME_IN_EVERY_LANGUAGE or _CHINESE_OR_JAPANESE.search(text), place
        words = re.findall(r"[A-Za-z]+(?:-[A-Za-z]*)?", _FILE.sub("", text))
        left = [word for word in words if not _TERMS.fullmatch(word)]
        assert left == [], f"{place}: left in English?"
        # ComfyUI's front end would interpret these characters as syntax.
        assert not re.search(r"[{}@|]", text + english[place]), place


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_the_same_word_is_translated_the_same(language: str) -> None:
    english, translated = read("en"), read(language)
    named = [(english[node, "display_name"], translated[node, "display_name"]) for node in NODES]
    names = named + [row for row in rows(language) if row[0].istitle() or row[0][:3] == "VAE"]
    terms = [row for row in rows(language) if row not in names]
    for place, text in english.items():
        if place[-1] == "name":
            continue
        for name, translation in names:
            assert name not in text or translation in translated[place], f"{place}: {name}"
            text = text.replace(name, "")
        text = _FILE.sub("", text)
        for term, translation in terms:
            if re.search(rf"\b{term}", text, re.IGNORECASE):
                assert translation in translated[place], f"{place}: {term}"


def test_every_text_of_the_front_end_is_translated() -> None:
    code = "".join(path.read_text("utf-8") for path in (PACK / "js").glob("*.js"))
    texts = re.findall(r'\btext\(\s*"([^"]+)"', code)
    for language in TRANSLATIONS:
        main = json.loads((LOCALES / language / "main.json").read_text("utf-8"))["LPNSR"]
        assert main.keys() == set(texts)
        for english, translated in main.items():
            assert _CHINESE_OR_JAPANESE.search(translated)
            assert re.findall(r"{\w+}", translated) == re.findall(r"{\w+}", english)


# Help pages


def page_of(node: str, language: str) -> Path:
    return DOCS / (f"{node}.md" if language == "en" else f"{node}/{language}.md")


def test_pages_are_those_of_the_nodes() -> None:
    pages = {str(page_of(node, language)) for node in NODES for language in ("en", *TRANSLATIONS)}
    assert {str(path) for path in DOCS.rglob("*.md")} == pages


@pytest.mark.parametrize("language", ["en", *TRANSLATIONS])
@pytest.mark.parametrize("node", NODES)
def test_a_page_shows_the_node_and_pictures_that_are_there(node: str, language: str) -> None:
    text, english = (page_of(node, which).read_text("utf-8") for which in (language, "en"))
    assert text.startswith(f"# {read(language)[node, 'display_name']}\n")
    # The help panel resolves paths of pictures relative to js/docs, in every language.
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert pictures
    assert pictures == re.findall(r"!\[[^\]]+\]\(([^)]+)\)", english)
    for name in pictures:
        assert (DOCS / name).stat().st_size <= LARGEST_PICTURE
        with Image.open(DOCS / name) as picture:
            assert picture.format == "JPEG"
    # The help panel does not resolve relative links.
    links = re.findall(r"(?<!!)\[[^\]]+\]\(([^)]+)\)", text)
    assert [link for link in links if not link.startswith("https://")] == []
    for name in re.findall(r"\*\*(\w+)\*\*", english):
        assert name in text or (node, "inputs", name, "name") not in read("en"), name


# Translations in the editor


@pytest.fixture(scope="module")
def page(browser: Browser, web: Server, renderer: str) -> Iterator[Page]:
    with watch_editor(browser, web, renderer) as (page, errors):
        yield page
        set_setting(page, "Comfy.Locale", "en")
    # Ignore help pages that do not exist: if there is none in ComfyUI's language, ComfyUI requests
    # the English one.
    assert [error for error in errors if not re.search(r"/docs/\w+/(en|ko)\.md$", error)] == []


@in_one_renderer
def test_the_help_panel_shows_a_page_with_its_picture(page: Page, screenshots: Path) -> None:
    open_help(page, "LPNSRSample")
    panel = page.locator(".node-help-content")
    expect(panel.get_by_role("heading", name="LPNSR Sample")).to_be_visible()
    page.screenshot(path=screenshots / "help.png")


def shown(page: Page, node_type: str) -> Texts:
    """Return the texts that the editor shows for a new node, under the keys of nodeDefs.json.

    Front ends from 1.35 translate descriptions and tooltips when they show them. For older ones,
    js/language.js translates the node definition.
    """
    found = page.evaluate(
        """type => {
            const node = LiteGraph.createNode(type), {nodeData} = node.constructor;
            const {config} = document.querySelector("#vue-app").__vue_app__;
            const {$t, $te} = config.globalProperties;
            const known = window.__COMFYUI_FRONTEND_VERSION__.split('.')[1] >= 35;
            const looked = (text, ...key) => {
                const place = ['nodeDefs', type, ...key].join('.');
                return known && $te(place) ? $t(place) : text;
            };
            const texts = [[[type, 'display_name'], node.title],
                [[type, 'description'], looked(nodeData.description, 'description')]];
            for (const input of node.inputs) {
                const widget = node.widgets?.find(widget => widget.name === input.widget?.name);
                texts.push([[type, 'inputs', input.name, 'name'], input.localized_name]);
                if (widget && widget.label !== input.localized_name) throw Error(widget.name);
            }
            for (const [name, {tooltip}] of Object.entries(nodeData.inputs))
                texts.push([[type, 'inputs', name, 'tooltip'],
                    looked(tooltip, 'inputs', name, 'tooltip')]);
            nodeData.outputs.forEach(({tooltip}, i) => texts.push(
                [[type, 'outputs', String(i), 'name'], node.outputs[i].localized_name],
                [[type, 'outputs', String(i), 'tooltip'],
                    looked(tooltip, 'outputs', i, 'tooltip')]));
            return texts;
        }""",
        node_type,
    )
    return {tuple(place): text for place, text in found}


@pytest.mark.parametrize("language", TRANSLATIONS)
@in_one_renderer
def test_the_editor_is_translated(
    page: Page, web: Server, language: str, screenshots: Path
) -> None:
    set_setting(page, "Comfy.Locale", language)
    load_editor(page, web)
    texts = read(language)
    for node in NODES:
        assert shown(page, node) == {k: v for k, v in texts.items() if k[0] == node}
    open_help(page, "LPNSRSample")
    title = texts["LPNSRSample", "display_name"]
    panel = page.locator(".node-help-content")
    expect(panel.get_by_role("heading", name=title, exact=True)).to_be_visible()
    main = json.loads((LOCALES / language / "main.json").read_text("utf-8"))["LPNSR"]
    expect(page.get_by_role("group", name=main["Preset"])).to_be_visible()
    page.screenshot(path=screenshots / f"{language}.png")
    add(page, "LPNSRCompare", 0, 700)
    empty = page.locator(".lpnsr-compare [role=status]")
    expect(empty).to_have_text(main["Run the workflow to compare."])


@in_one_renderer
def test_another_language_is_english(page: Page, web: Server) -> None:
    set_setting(page, "Comfy.Locale", "ko")
    # In newer front ends, titles, also of core nodes, change their language only after reloading.
    load_editor(page, web)
    page.wait_for_function("() => LiteGraph.createNode('LPNSRSample').title === 'LPNSR Sample'")
    english = {k: v for k, v in read("en").items() if k[0] == "LPNSRSample"}
    assert shown(page, "LPNSRSample") == english
