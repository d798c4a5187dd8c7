"""Real Chromium: each notebook's panel answers to mouse and keyboard, and its export shows the panel to readers without a kernel.

Here some panels are moved, in notebooks cut down to the cells that the panel needs: nbval runs every cell, and ``run.py stress`` runs every notebook whole
in the browser and moves its panel.
"""

import ast
import json
import os
from html.parser import HTMLParser
from pathlib import Path

import pytest
from nbconvert import HTMLExporter

from tests.browser import Lab, browser, menu, missing, wait_for

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def with_panel() -> list[str]:
    """The notebooks that have a section "Panel"."""
    books = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(NOTEBOOKS.glob("*.ipynb"))}
    return [name for name, book in books.items() if any("".join(cell["source"]).startswith("## Panel") for cell in book["cells"])]


def panel_outputs(book: dict) -> list[dict]:
    """The stored outputs of the section "Panel" that hold a described figure."""
    inside, found = False, []
    for cell in book["cells"]:
        if cell["cell_type"] == "markdown" and "".join(cell["source"]).startswith("## "):
            inside = "".join(cell["source"]).startswith("## Panel")
        if inside:
            found += [output["data"] for output in cell.get("outputs", []) if "<figcaption" in "".join(output.get("data", {}).get("text/html", []))]
    return found


MOVED = ("03_out_of_memory.ipynb", "10_key_takeaways.ipynb")
"""Panels of two kinds (bars, a scatter) whose cells take no time to speak of; ``run.py stress`` moves all ten."""


def for_the_panel(book: dict) -> dict:
    """The notebook without the code cells that neither belong to the section Panel nor give a name that is used there."""
    inside, wanted, kept = False, set(), []
    for cell in book["cells"]:
        if cell["cell_type"] == "markdown" and "".join(cell["source"]).startswith("## "):
            inside = "".join(cell["source"]).startswith("## Panel")
        kept.append([cell, inside])
    for entry in reversed(kept):
        cell, needed = entry
        nodes = list(ast.walk(ast.parse("".join(cell["source"])))) if cell["cell_type"] == "code" else []
        names = {node.id: isinstance(node.ctx, ast.Store) for node in nodes if isinstance(node, ast.Name)}
        given = {name for name, stored in names.items() if stored}
        given |= {alias.asname or alias.name for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names}
        given |= {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
        entry[1] = needed or cell["cell_type"] == "markdown" or bool(given & wanted)
        if entry[1]:
            wanted |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return book | {"cells": [cell for cell, needed in kept if needed]}


PANELS = with_panel() or [pytest.param("", marks=pytest.mark.skip(reason="no notebook with a panel yet"))]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    if reason := missing():
        pytest.skip(reason)
    notebooks = tmp_path_factory.mktemp("notebooks")
    for path in map(NOTEBOOKS.joinpath, MOVED):
        book = json.loads(path.read_text(encoding="utf-8"))
        (notebooks / path.name).write_text(json.dumps(for_the_panel(book)), encoding="utf-8")
    with Lab(notebooks, tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.fixture(scope="module")
def chromium(lab):
    with browser() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory) -> Path:
    """Where the pictures of the panels go: a folder given by MLLANDSCAPE_SCREENSHOTS, or a temporary one."""
    folder = Path(os.environ.get("MLLANDSCAPE_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class LivePanel:
    """What a learner sees of the live panel: the first slider, the picture and the words under it."""

    def __init__(self, page):
        self.page = page
        self.box = page.locator(".jp-OutputArea-output .widget-vbox:has(figure img)").last
        self.handle = self.box.locator(".noUi-handle").first
        self.readout = self.box.locator(".widget-readout").first
        self.picture = self.box.locator("figure img")
        self.caption = self.box.locator("figcaption")

    def settled(self, before: str = "") -> dict[str, object]:
        """What it shows once it differs from the words of ``before`` and no move is under way any more."""
        shown = []

        def still() -> bool:
            shown.append((self.readout.text_content(), self.caption.inner_text(), self.picture.get_attribute("src")))
            return shown[-1][1] != before and shown[-2:-1] == shown[-1:]

        wait_for(still, 20, "the panel to answer")
        self.picture.scroll_into_view_if_needed()
        pixels = self.page.screenshot(clip=self.picture.bounding_box())
        return {"value": shown[-1][0], "words": shown[-1][1], "pixels": pixels, "description": self.picture.get_attribute("alt")}

    def drag(self, share: float) -> None:
        """Drag the first slider's handle by this share of the track's width, with the mouse."""
        self.handle.scroll_into_view_if_needed()
        track, handle = self.box.locator(".noUi-base").first.bounding_box(), self.handle.bounding_box()
        x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
        end = min(max(x + share * track["width"], track["x"] + 2), track["x"] + track["width"] - 2)
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(end, y, steps=12)
        self.page.mouse.up()

    def nudge(self, key: str) -> None:
        """Move the first slider by keyboard alone: focus on its handle, then a key."""
        self.handle.focus()
        self.page.keyboard.press(key)


@pytest.mark.parametrize("name", MOVED)
def test_the_panel_answers_to_mouse_and_keyboard_in_jupyterlab(lab, chromium, screenshots, name):
    page = chromium.new_page(viewport={"width": 1400, "height": 1000})
    try:
        lab.open(page, name)
        stored = page.locator(".jp-RenderedHTMLCommon figure img[alt]")
        assert stored.count(), "a notebook opened and not yet run shows no stored figure"
        assert not page.get_by_text("Error displaying widget").count(), "a stored widget view without its state"
        lab.run_all(page, name)
        panel = LivePanel(page)
        assert panel.picture.count() == 1, "no live panel: a cell's widget view is not shown, or shown as its static twin"
        seen = [panel.settled()]
        for share in (0.35, -0.75):
            panel.drag(share)
            seen.append(panel.settled(seen[-1]["words"]))
        for _ in range(3):
            panel.nudge("ArrowRight")
        seen.append(panel.settled(seen[-1]["words"]))
        for before, after in zip(seen, seen[1:], strict=False):
            for part in ("value", "pixels", "words", "description"):
                assert before[part] != after[part], f"the panel's {part} did not change with the slider"
        assert all(words in seen[-1]["description"] for words in seen[-1]["words"].split("\n"))
        verdicts = {str(state["words"]).splitlines()[0].split(":")[0] for state in seen}
        assert len(verdicts) > 1, f"the verdict stayed {verdicts} while the first slider moved over most of its track"
        assert panel.handle.get_attribute("role") == "slider"
        broken = page.get_by_text("Error displaying widget").count()
        assert not broken, f"{broken} widgets could not be shown"
        for theme, is_light in (("Light", "true"), ("Dark", "false")):  # the server remembers the last one
            menu(page, "Settings", "Theme", f"JupyterLab {theme}")
            wait_for(lambda light=is_light: page.evaluate("document.body.dataset.jpThemeLight") == light, 15, f"the {theme.lower()} theme")
            page.wait_for_selector("#jupyterlab-splash", state="detached")
            panel.box.scroll_into_view_if_needed()
            panel.box.screenshot(path=screenshots / f"{Path(name).stem}-{theme.lower()}.png")
        page.screenshot(path=screenshots / f"{Path(name).stem}-dark-page.png")
    finally:
        page.close()


class Export(HTMLParser):
    """The described figures of an HTML page, and the pictures that nobody described."""

    def __init__(self):
        super().__init__()
        self.described, self.bare = [], []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag == "img":
            description = (attributes.get("alt") or "").strip()
            (self.described if description and not description.startswith("No description") else self.bare).append(description)
        if tag == "svg" and attributes.get("role") == "img" and not attributes.get("aria-label"):
            self.bare.append("svg")


@pytest.mark.parametrize("name", PANELS)
def test_the_html_export_shows_the_panel_as_a_described_figure(name):
    book = json.loads((NOTEBOOKS / name).read_text(encoding="utf-8"))
    stored = [output.get("data", {}) for cell in book["cells"] for output in cell.get("outputs", [])]
    assert not any(WIDGET_VIEW in data for data in stored), "a widget view is stored, an error to readers without a kernel: python3 run.py references"
    panels = ["".join(data["text/html"]) for data in panel_outputs(book)]
    assert panels, "no output of the section Panel is a described figure"
    page, _ = HTMLExporter().from_filename(str(NOTEBOOKS / name))
    export = Export()
    export.feed(page)
    assert "No description has been provided" not in page
    assert not export.bare
    for panel in panels:
        shown = Export()
        shown.feed(panel)
        assert shown.described and shown.described[0] in export.described
