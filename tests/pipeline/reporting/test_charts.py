"""Charts: images with labels, in the page's colours, of the same bytes for the same values."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from datetime import date, timedelta

import pytest
from markupsafe import Markup

from pipeline.reporting.charts import Line, bar_chart, interval_chart, line_chart, sparkline
from tests.helpers.report_cases import NASTY

DAYS = [date(2026, 6, 1) + timedelta(days=day) for day in range(40)]
CHARTS: dict[str, Callable[[str], Markup]] = {
    "lines": lambda title: line_chart(
        title, {"a": Line([(1, 0.5), (2, 0.7)], [(0.4, 0.6), (0.6, 0.8)]), "b": Line([(1, 0.1)])}
    ),
    "dates": lambda title: line_chart(title, {"a": Line([(day, 1.0) for day in DAYS])}),
    "bars": lambda title: bar_chart(title, {"a": 1.0, "b": 0.0}, "seconds"),
    "intervals": lambda title: interval_chart(title, {"a": (0.1, 0.0, 0.2)}, "difference"),
    "sparkline": lambda title: sparkline(title, [1.0, 3.0, 2.0]),
}


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter("text")]


@pytest.mark.parametrize("kind", CHARTS)
def test_a_chart_is_one_image_with_a_label(kind: str) -> None:
    svg = CHARTS[kind]("A title")
    root = ET.fromstring(svg)
    assert (root.tag, root.attrib["role"]) == ("svg", "img")
    assert root.attrib["aria-label"].startswith("A title")
    assert "width" not in root.attrib  # the page decides
    assert CHARTS[kind]("A title") == svg
    assert not list(root.iter("style"))
    assert not list(root.iter("metadata"))


@pytest.mark.parametrize("kind", CHARTS)
def test_every_colour_is_one_of_the_page(kind: str) -> None:
    colours = re.findall(r"(?:fill|stroke): ([^;\"]+)", CHARTS[kind]("A title"))
    assert colours
    assert {each for each in colours if not re.fullmatch(r"var\(--[\w-]+\)", each)} <= {"none"}


@pytest.mark.parametrize("kind", CHARTS)
def test_what_a_chart_refers_to_is_in_it(kind: str) -> None:
    svg = CHARTS[kind]("A title")
    ids = re.findall(r' id="([^"]+)"', svg)
    used = re.findall(r'(?:url\(#|href="#)([^)"]+)', svg)
    assert len(ids) == len({*ids})
    assert {*used} <= {*ids}
    boxes = [each for each in ET.fromstring(svg).iter("rect") if "clip" not in each.attrib]
    assert all(float(box.attrib["width"]) > 0 for box in boxes)


@pytest.mark.parametrize("kind", CHARTS)
def test_text_is_text(kind: str) -> None:
    svg = CHARTS[kind](NASTY)
    assert ET.fromstring(svg).attrib["aria-label"].startswith("<script>")
    assert "<script" not in svg


def test_names_are_neither_mathematics_nor_escape_sequences() -> None:
    named = texts(bar_chart("t", {"a $x_1$": 1.0, "\x1b[31m \u4e16": 2.0}, "seconds"))
    assert {"a $x_1$", r"\x1b[31m 世"} <= {*named}


def test_a_label_says_where_lines_begin_and_end() -> None:
    assert "a from 0.5 to 0.7, b from 0.1 to 0.1" in CHARTS["lines"]("t")


def test_a_legend_names_lines_where_there_are_several() -> None:
    assert {"a", "b"} <= {*texts(CHARTS["lines"]("t"))}
    assert "a" not in texts(CHARTS["dates"]("t"))
    assert "b" not in texts(line_chart("t", {"a": Line([(1, 0.5)]), "b": Line([])}))


def test_few_dates_and_whole_numbers_stand_under_an_axis() -> None:
    found = [text for text in texts(CHARTS["dates"]("t")) if text.startswith("2026-")]
    assert found[0] == "2026-06-01"
    assert 2 <= len(found) <= 4
    epochs = line_chart("t", {"a": Line([(1, 5.0), (2, 6.0), (3, 7.0)])})
    assert {"1", "2", "3"} <= {*texts(epochs)}
    assert "1.5" not in texts(epochs)


def test_numbers_that_are_not_finite_are_gaps() -> None:
    values = [1.0, 2.0, float("nan"), float("inf"), 2.0, 1.0]
    for svg in (line_chart("t", {"a": Line(list(enumerate(values)))}), sparkline("t", values)):
        (line,) = re.findall(r'<path d="([^"]+)"[^>]*stroke: var\(--series-1\)', svg)
        assert re.findall("[A-Z]", line) == ["M", "L", "M", "L"]
        assert not re.search(r"\b(nan|inf)\b", svg, re.IGNORECASE)


def test_one_run_has_no_trend() -> None:
    assert sparkline("t", [1.0]) == ""
