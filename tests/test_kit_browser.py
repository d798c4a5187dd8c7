"""The pages and slides in real Chromium with the network cut: nothing is asked for, nothing fails, both themes can be read, no slide overflows."""

import os

import pytest

from mllandscape.kit import instructor, page, slides
from mllandscape.kit.lesson import lessons
from tests.browser import browser, missing

# Of every text that is seen: its contrast with what is painted behind it (WCAG 2), where that is below 4.5; pictures are not looked into.
FAINT = """() => {
  const linear = value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = colour => { const [r, g, b] = colour.match(/[\\d.]+/g).map(value => linear(value / 255)); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const painted = element => getComputedStyle(element).backgroundColor;
  const behind = element => !element ? 'rgb(255, 255, 255)' : /, 0\\)$/.test(painted(element)) ? behind(element.parentElement) : painted(element);
  const seen = new Set();
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || element.closest('script, style')) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(behind(element))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) seen.add(`${element.tagName}.${element.className} ${contrast.toFixed(2)} ${element.textContent.slice(0, 30)}`);
  }
  return [...seen];
}"""
WIDE = "document.documentElement.scrollWidth > innerWidth"
OVERFLOWS = "[...document.querySelectorAll('section')].filter(s => s.scrollHeight > s.clientHeight + 1 || s.scrollWidth > s.clientWidth + 1).map(s => s.id)"
CUT = "[...document.querySelectorAll('.output pre:not(.table)')].filter(p => p.scrollWidth > p.clientWidth + 1).map(p => p.textContent.slice(0, 40))"
# How large the lettering of each figure is, in pixels: 10.5 points where its 860 pixels are shown as they are.
LETTERS = """() => [...document.querySelectorAll('section img')].map(image => {
  const shown = image.getBoundingClientRect(), style = getComputedStyle(image);
  const width = style.objectFit === 'cover' ? shown.width : Math.min(shown.width, shown.height * image.naturalWidth / image.naturalHeight);
  return [image.closest('section').id, 14 * width / 860];
})"""
BROKEN = "[...document.images].filter(image => !image.complete || !image.naturalWidth).length"


@pytest.fixture(scope="module")
def chromium():
    if reason := missing():
        pytest.skip(reason)
    with browser() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Every page and deck as files."""
    folder = tmp_path_factory.mktemp("pages")
    every = [lesson for lesson in lessons() if any(cell.get("outputs") for cell in lesson.book.cells)]
    pages = {"index": page.index("The lessons", every), "plan": instructor.plan(every)}
    pages |= {f"{kind}-{lesson.number}": make(lesson) for lesson in every for kind, make in (("page", page.page), ("slides", slides.deck))}
    for name, text in pages.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def opened(chromium, made):
    """A page on which a file is opened offline; it fails when the page asks for anything or complains."""
    context = chromium.new_context(offline=True, viewport={"width": 1280, "height": 720})
    view, wrong = context.new_page(), []
    view.on("console", lambda message: wrong.append(f"{message.type}: {message.text}") if message.type in ("error", "warning") else None)
    view.on("pageerror", lambda error: wrong.append(str(error)))
    view.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else wrong.append(request.url))
    yield lambda name: view.goto((made / f"{name}.html").as_uri()) and view
    context.close()
    assert not wrong


def test_every_page_opens_offline_and_can_be_read_in_both_themes(opened, made):
    for name in sorted(path.stem for path in made.glob("*.html") if not path.stem.startswith("slides")):
        view = opened(name)
        for width in (390, 1280):
            view.set_viewport_size({"width": width, "height": 800})
            assert not view.evaluate(WIDE), (name, width)
            assert view.evaluate(CUT) == [], (name, width)
        assert view.evaluate(BROKEN) == 0, name
        for theme in ("light", "dark"):
            view.emulate_media(color_scheme=theme)
            assert view.evaluate(FAINT) == [], (name, theme)
            if folder := os.environ.get("MLLANDSCAPE_SCREENSHOTS"):
                view.screenshot(path=f"{folder}/{name}-{theme}.png", full_page=True)


def test_no_slide_overflows_on_a_projector_and_keys_turn_them(opened, made):
    names = sorted(path.stem for path in made.glob("slides-*.html"))
    for name in names:
        view = opened(name)
        for width, height in ((1280, 720), (1024, 768)):
            view.set_viewport_size({"width": width, "height": height})
            assert view.evaluate(OVERFLOWS) == [], (name, width)
        view.set_viewport_size({"width": 1280, "height": 720})
        assert [letters for letters in view.evaluate(LETTERS) if letters[1] < 18] == [], f"{name}: too small for the back of a room"
        assert view.evaluate(BROKEN) == 0 and view.evaluate(FAINT) == [], name
    view.emulate_media(color_scheme="dark")
    assert view.evaluate(FAINT) == []
    last = view.locator("section").count()
    for key, place in (("ArrowRight", 2), ("PageDown", 3), (" ", 4), ("ArrowLeft", 3), ("End", last), ("ArrowDown", last), ("Home", 1), ("ArrowUp", 1)):
        view.keyboard.press(key)
        view.wait_for_function(f"location.hash === '#s{place}' && Math.abs(document.getElementById('s{place}').getBoundingClientRect().top) < 2", timeout=5000)


def test_a_page_that_loads_something_is_caught(chromium, tmp_path):
    (tmp_path / "bad.html").write_text(page.index("x", []).replace("<h1>", '<img src="http://127.0.0.1:9/x.png" alt="x"><p style="color:#999">faint</p><h1>'))
    context = chromium.new_context(offline=True)
    view, said = context.new_page(), []
    view.on("console", lambda message: said.append(message.text))
    view.goto((tmp_path / "bad.html").as_uri())
    assert "faint" in view.evaluate(FAINT)[0] and any("Content Security Policy" in text for text in said)
    context.close()
