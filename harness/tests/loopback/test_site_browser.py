"""The site in a real browser: opened from files, searched, steered by keys, attacked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.tests import sites

# A browser on a loaded machine takes its time; a test that waits is none that fails.
PATIENCE_MS = 120_000
WIDTH = 390
PHONE = {"viewport": {"width": WIDTH, "height": 844}, "is_mobile": True, "has_touch": True}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install '.[dev]'"
    )
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium: apt-get install chromium")
    # It refuses to sandbox itself as root.
    args = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=chromium, args=args, timeout=PATIENCE_MS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("lab") / "runs"
    sites.nights(runs)
    return sites.write(runs, runs / "site")


def some(front: Path) -> list[Path]:
    """The front page, the largest page of each other kind, and each that shows hostile text."""
    pages = [page for page in front.parent.rglob("*.html") if page != front]
    largest = {page.parent: page for page in sorted(pages, key=lambda page: page.stat().st_size)}
    hostile = [page for page in pages if "window.owned" in page.read_text(encoding="utf-8")]
    return [front, *dict.fromkeys([*largest.values(), *hostile])]


class Visit:
    """A page, what it asked for, and what went wrong in it."""

    def __init__(self, browser: Any, **options: Any) -> None:
        self.asked: list[str] = []
        self.wrong: list[str] = []
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(PATIENCE_MS)
        self.context.on("request", lambda request: self.asked.append(request.url))
        self.page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", self._said)
        self.page.on("dialog", lambda dialog: self.wrong.append(dialog.message))

    def _said(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.wrong.append(message.text)


@pytest.fixture
def visit(browser: Any) -> Iterator[Visit]:
    made = Visit(browser)
    yield made
    made.context.close()


def test_pages_open_from_files_and_ask_for_files_alone(visit: Visit, front: Path) -> None:
    pages = some(front)
    for page in pages:
        visit.page.goto(page.as_uri())
        assert visit.page.evaluate("window.owned") is None
        assert visit.page.locator("h1").count() == 1
        assert visit.page.evaluate("document.querySelectorAll('script').length") == 1
    assert visit.wrong == []
    assert len(visit.asked) > len(pages)
    assert [url for url in visit.asked if not url.startswith(("file:", "data:"))] == []


def test_pictures_show(visit: Visit, front: Path) -> None:
    (svg,) = front.parent.glob("finding/*.svg")
    visit.page.goto(svg.with_suffix(".html").as_uri())
    picture = visit.page.locator("img")
    picture.scroll_into_view_if_needed()
    assert picture.evaluate("i => i.decode().then(() => i.naturalWidth)") == 1000


def test_search_by_keys(visit: Visit, front: Path) -> None:
    visit.page.goto(front.as_uri())
    visit.page.keyboard.press("/")
    visit.page.keyboard.type("console_lock circular")
    found = visit.page.locator("#found a")
    found.first.wait_for()
    assert found.count() == 1
    visit.page.keyboard.press("ArrowDown")
    visit.page.keyboard.press("Enter")
    visit.page.wait_for_url("**/finding/*.html")
    assert "console_lock" in visit.page.locator("h1").inner_text()
    # And back from there, by a key too.
    visit.page.keyboard.press("u")
    visit.page.wait_for_url("**/index.html")
    assert visit.wrong == []


def test_search_shows_hostile_text_and_does_not_run_it(visit: Visit, front: Path) -> None:
    visit.page.goto(front.as_uri())
    visit.page.locator("#search input").fill("onmouseover=owned")
    link = visit.page.locator("#found a")
    link.first.wait_for()
    assert link.first.inner_text() == sites.EVIL_TEST
    link.first.hover()
    assert visit.page.evaluate("window.owned") is None
    visit.page.locator("#search input").fill("no such thing anywhere")
    visit.page.get_by_text("nothing found").wait_for()


def test_j_and_k_go_through_the_news(visit: Visit, front: Path) -> None:
    visit.page.goto(front.as_uri())
    focused = "document.activeElement.textContent"
    visit.page.keyboard.press("j")
    first = visit.page.evaluate(focused)
    visit.page.keyboard.press("j")
    second = visit.page.evaluate(focused)
    visit.page.keyboard.press("k")
    assert first != second
    assert visit.page.evaluate(focused) == first
    visit.page.keyboard.press("Enter")
    visit.page.wait_for_url("**/finding/*.html")


def test_a_cell_of_the_matrix_says_what_it_is(visit: Visit, front: Path) -> None:
    visit.page.goto(front.as_uri())
    cell = visit.page.locator(".matrix td", has_text="F").first
    cell.hover()
    assert visit.page.locator(".matrix td[title]").first.get_attribute("title").endswith(" on navi")
    cell.locator("a").click()
    visit.page.wait_for_url("**/case/*.html")


def test_nothing_is_wider_than_a_phone(browser: Any, front: Path) -> None:
    visit = Visit(browser, **PHONE)
    for page in some(front):
        visit.page.goto(page.as_uri())
        wide = visit.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= WIDTH, page
    visit.context.close()


def test_dark_is_dark_and_both_can_be_read(browser: Any, front: Path) -> None:
    """Contrast of text as WCAG 2.1 (1.4.3) wants it, 4.5 to 1."""
    for scheme in ("light", "dark"):
        visit = Visit(browser, color_scheme=scheme)
        visit.page.goto(front.as_uri())
        paper = _luminance(visit, "body", "backgroundColor")
        assert (paper < 0.1) == (scheme == "dark")
        for what in ("body", ".dim", "ul.news a.title"):
            ink = _luminance(visit, what, "color")
            low, high = sorted((ink, paper))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (scheme, what)
        visit.context.close()


def _luminance(visit: Visit, selector: str, colour: str) -> float:
    shown = visit.page.locator(selector).first.evaluate(f"e => getComputedStyle(e).{colour}")
    parts = [int(part) / 255 for part in shown[shown.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
