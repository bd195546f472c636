"""The pages in a real browser: quiet, without any request, on a phone, in the dark, by keyboard."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.reporting.report import write_report
from tests.helpers.browser import Page, installed_browser, open_browser
from tests.helpers.report_cases import DAYS, NASTY, case_in, held, write_nights

BROWSER = installed_browser()
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")

PAGES = {
    "promoted": f"plain/warehouse/reports/{DAYS[2]}/report.html",
    "index": "plain/warehouse/reports/index.html",
    "held": f"odd/warehouse/reports/{DAYS[3]}/report.html",
    "index of odd names": "odd/warehouse/reports/index.html",
}
FOCUSED = """(() => {
    const found = document.activeElement, box = found.getBoundingClientRect()
    const style = getComputedStyle(found)
    return [found.tagName, found.textContent.trim().slice(0, 40), box.width > 0 && box.height > 0,
            style.outlineStyle]
})()"""
# Text of the page whose letters have too little contrast to what is behind them (WCAG 2, AA).
PALE = """(() => {
    const channels = text => text.match(/[\\d.]+/g).map(Number)
    const light = text => channels(text).slice(0, 3).map(v => v / 255)
        .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0)
    const behind = element => {
        for (; element; element = element.parentElement) {
            const colour = getComputedStyle(element).backgroundColor
            if (channels(colour)[3] !== 0) return colour
        }
    }
    return [...document.querySelectorAll("body *")]
        .filter(each => [...each.childNodes].some(n => n.nodeType == 3 && n.textContent.trim()))
        .filter(each => {
            const style = getComputedStyle(each)
            const ink = light(each.closest("svg") ? style.fill : style.color)
            const [low, high] = [ink, light(behind(each))].sort((a, b) => a - b)
            return (high + .05) / (low + .05) < 4.5
        }).map(each => each.outerHTML.slice(0, 80))
})()"""
SMALL = """[...document.querySelectorAll("svg text")]
    .filter(each => each.getBoundingClientRect().height < 9).length"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Warehouses with reports: a plain one, and one whose ids, names and messages are odd."""
    folder = tmp_path_factory.mktemp("reports")
    plain, odd = case_in(folder / "plain"), case_in(folder / "odd")
    write_nights(plain)
    write_report(plain.settings, DAYS[2])
    long = "x" * 400
    for day in DAYS[2:]:
        odd.publish(day, {NASTY: [(NASTY, 1.0), (long, 0.5)], long: [(long, 1e9)]})
        bad = {"user_id": long, "item_id": NASTY, "source_file": f"{long}.parquet"}
        odd.quarantine(day, [{**bad, "reason": NASTY}, {**bad, "reason": long}])
        odd.run(
            day, "held", reasons=[NASTY, long], checks=held(NASTY, long), protocol=long,
            candidate=long, stage_seconds={long: 1.0}, metrics={long: 0.1, "NDCG@10": 1e9},
        )  # fmt: skip
    odd.interact([(NASTY, long, datetime(2026, 6, 28, tzinfo=UTC))])
    write_report(odd.settings, DAYS[3])
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    assert BROWSER is not None
    with open_browser(BROWSER, tmp_path_factory.mktemp("profile")) as page:
        yield page


def methods(page: Page, *named: str) -> list[dict[str, Any]]:
    return [parameters for method, parameters in page.events if method in named]


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (390, "light"),
        (1200, "dark"),
        pytest.param(390, "dark", marks=pytest.mark.slow),
        pytest.param(1200, "light", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_quiet_fits_and_can_be_read(
    reports: Path, browser: Page, name: str, width: int, scheme: str
) -> None:
    browser.open(reports / PAGES[name], width=width, scheme=scheme)
    browser.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    assert browser.evaluate(fits)
    assert browser.evaluate(PALE) == []
    assert browser.evaluate(SMALL) == 0
    assert browser.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") == (
        scheme == "dark"
    )
    troubles = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
    assert methods(browser, *troubles) == []
    requested = [each["request"]["url"] for each in methods(browser, "Network.requestWillBeSent")]
    file = (reports / PAGES[name]).as_uri()
    assert [url for url in requested if not url.startswith("data:")] == [file]


def test_a_request_would_be_refused_and_seen(reports: Path, browser: Page, tmp_path: Path) -> None:
    html = (reports / PAGES["index"]).read_text()
    (tmp_path / "a.html").write_text(html.replace("</main>", "<img src='a.png'></main>"))
    browser.open(tmp_path / "a.html", width=390, scheme="light")
    (entry,) = methods(browser, "Log.entryAdded")
    assert "Content Security Policy" in entry["entry"]["text"]


def test_every_link_summary_and_wide_table_is_reached_by_keyboard(
    reports: Path, browser: Page
) -> None:
    browser.open(reports / PAGES["promoted"], width=390, scheme="light")
    wanted = browser.evaluate(
        "[...document.querySelectorAll('a, summary, [tabindex]')]"
        ".filter(each => each.checkVisibility()).length"
    )
    seen = []
    for _ in range(wanted):
        browser.press("Tab")
        tag, text, visible, outline = browser.evaluate(FOCUSED)
        assert visible, (tag, text)
        assert outline == "solid"
        seen.append((tag, text))
    assert seen[0] == ("A", "Skip to the content")
    assert seen.count(("A", "Quality")) == 1
    assert sum(tag == "SUMMARY" for tag, _ in seen) >= 5
    assert sum(tag == "DIV" for tag, _ in seen) >= 1
    browser.press("Tab")
    assert browser.evaluate(FOCUSED)[0] != "A"  # the last one was the last


def test_a_summary_opens_by_keyboard(reports: Path, browser: Page) -> None:
    browser.open(reports / PAGES["promoted"], width=390, scheme="light")
    closed = "document.querySelectorAll('details:not([open])').length"
    before = browser.evaluate(closed)
    browser.evaluate("document.querySelector('details:not([open]) summary').focus()")
    browser.press("Enter")
    assert browser.evaluate(closed) == before - 1


def test_images_have_labels_and_regions_names(reports: Path, browser: Page) -> None:
    browser.open(reports / PAGES["promoted"], width=1200, scheme="light")
    browser.call("Accessibility.enable")
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    named: dict[str, list[str]] = {}
    for node in nodes:
        role, name = node.get("role", {}).get("value"), node.get("name", {}).get("value", "")
        named.setdefault(role, []).append(name)
    assert len(named["image"]) >= 8
    assert all(named["image"])
    assert all(named["region"])
    assert {"Decision", "Quality"} <= {*named["region"]}
