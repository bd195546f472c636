"""The charts of a report, drawn by Matplotlib as SVG that takes its colours from the page."""

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from pipeline.terminal import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colours that stand for the page's own: its style sheet has a light and a dark value of each.
_INK, _LINE = "#010101", "#020202"
_SERIES = ("#0a0001", "#0a0002", "#0a0003", "#0a0004")
_VARIABLES = {_INK: "--ink", _LINE: "--line"} | {
    colour: f"--series-{number}" for number, colour in enumerate(_SERIES, start=1)
}
_DASHES = ("-", "--", ":", "-.")  # so that lines differ without colours, too
_WIDTH = 4.6  # inches: at 72 pixels each, its text is readable on a phone
_MARKED = 28  # points of a line, at most, that get a marker each
_DATES = 4  # under an axis
_LONGEST_NAME = 24  # characters
_SVG = "{http://www.w3.org/2000/svg}"

Points = Sequence[tuple[Any, float]]


@dataclass(frozen=True)
class Line:
    """A series of a chart.

    Attributes:
        points: x and y, in the order of x.
        band: Low and high at every x, shaded.
    """

    points: Points
    band: Sequence[tuple[float, float]] = field(default=())


def line_chart(
    title: str,
    lines: Mapping[str, Line],
    *,
    x: str = "",
    shaded: tuple[float, float] | None = None,
) -> Markup:
    """Lines by name, over dates or numbers.

    Args:
        title: What the chart shows, in words; for screen readers.
        lines: By name; those without points are left out.
        x: The horizontal axis.
        shaded: A span of x to shade.

    Returns:
        An ``<svg>`` element.
    """
    drawn = {_short(name): line for name, line in lines.items() if line.points}

    def draw(axes: "Axes") -> None:
        if shaded:
            axes.axvspan(*shaded, color=_LINE, alpha=0.6, linewidth=0)
        for number, (name, line) in enumerate(drawn.items()):
            xs, ys = zip(*line.points, strict=True)
            colour, style = _SERIES[number % 4], _DASHES[number % 4]
            marker = "o" if len(xs) <= _MARKED else None
            axes.plot(xs, ys, style, color=colour, label=name, marker=marker, markersize=3)
            if line.band:
                low, high = zip(*line.band, strict=True)
                axes.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set_xlabel(x)
        _name_ticks(axes, [point for line in drawn.values() for point, _ in line.points])
        if len(drawn) > 1:
            axes.figure.legend(
                loc="outside upper left", ncols=4, frameon=False, labelcolor=_INK,
                handlelength=2.2, columnspacing=1, borderpad=0,
            )  # fmt: skip

    ends = (
        f"{name} from {line.points[0][1]:.4g} to {line.points[-1][1]:.4g}"
        for name, line in drawn.items()
    )
    return _svg(f"{title}: {', '.join(ends)}", draw)


def _name_ticks(axes: "Axes", xs: Sequence[Any]) -> None:
    """Whole numbers under an axis of whole numbers, some of the dates under one of dates."""
    from matplotlib.ticker import MaxNLocator

    if all(isinstance(x, date) for x in xs):
        days = sorted(set(xs))
        shown = days[:: -(-len(days) // _DATES)]
        axes.set_xticks(shown, [str(day) for day in shown])
    elif all(isinstance(x, int) for x in xs):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def bar_chart(title: str, bars: Mapping[str, float], x: str) -> Markup:
    """Horizontal bars by name, the first on top, with their values beside them."""
    names = [_short(name) for name in bars]

    def draw(axes: "Axes") -> None:
        values = list(bars.values())
        drawn = axes.barh(names[::-1], values[::-1], color=_SERIES[0], height=0.6)
        axes.bar_label(drawn, fmt="%.1f", padding=3, color=_INK)
        axes.margins(x=0.15)
        axes.set_xlabel(x)

    shown = ", ".join(
        f"{name} {value:.1f}" for name, value in zip(names, bars.values(), strict=True)
    )
    return _svg(f"{title}: {shown} {x}", draw, height=0.6 + 0.22 * max(len(bars), 3))


def interval_chart(
    title: str, intervals: Mapping[str, tuple[float, float, float]], x: str
) -> Markup:
    """Means with their intervals (mean, low, high) by name, beside a line at 0."""
    names = [f"{_short(name)} {mean:+.4f}" for name, (mean, _, _) in intervals.items()]

    def draw(axes: "Axes") -> None:
        for row, (mean, low, high) in enumerate(reversed(list(intervals.values()))):
            axes.plot([low, high], [row, row], color=_SERIES[0], linewidth=2)
            axes.plot([mean], [row], "o", color=_SERIES[0])
        axes.set_yticks(range(len(names)), names[::-1])
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.axvline(0, color=_INK, linewidth=0.8)
        axes.set_xlabel(x)

    spans = (
        f"{name} ({low:+.4f} to {high:+.4f})"
        for name, (_, low, high) in zip(names, intervals.values(), strict=True)
    )
    return _svg(f"{title}: {', '.join(spans)}", draw, height=0.6 + 0.3 * len(intervals))


def sparkline(name: str, values: Sequence[float]) -> Markup:
    """A small line of the last runs' values without axes; the newest has a dot.

    It is empty where there are fewer than two.
    """
    if len(values) < 2:
        return Markup("")

    def draw(axes: "Axes") -> None:
        axes.plot(values, color=_SERIES[0], linewidth=1)
        axes.plot([len(values) - 1], values[-1:], "o", color=_SERIES[0], markersize=3)
        axes.axis("off")

    label = f"{name} of {len(values)} runs: from {values[0]:.4g} to {values[-1]:.4g}"
    return _svg(label, draw, width=1.1, height=0.28, box=(0.04, 0.15, 0.92, 0.7))


def _short(name: str) -> str:
    """A name that fits beside or above a chart."""
    shown = printable(name)
    return shown if len(shown) <= _LONGEST_NAME else shown[: _LONGEST_NAME - 1] + "…"


def _svg(
    label: str,
    draw: Callable[["Axes"], None],
    *,
    width: float = _WIDTH,
    height: float = 2.3,
    box: tuple[float, float, float, float] | None = None,
) -> Markup:
    """What is drawn on the axes of a new figure, as an image with a label.

    Args:
        label: For screen readers.
        draw: Draws on the axes.
        width: Of the figure, in inches.
        height: Likewise.
        box: Left, bottom, width and height of the axes, as shares of the figure's; by default as
            large as its text allows.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "svg.fonttype": "none",  # text as text
        "text.parse_math": False,
        "svg.hashsalt": label,  # the same chart has the same bytes
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.xmargin": 0.02,
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "axes.edgecolor": _LINE,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "axes.grid": True,
        "grid.color": _LINE,
        "grid.linewidth": 0.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # Of letters that Matplotlib's font has not: the page is shown in another.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = Figure(figsize=(width, height), layout=None if box else "constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_axes(box) if box else figure.add_subplot()
        for patch in (figure.patch, axes.patch):
            patch.set_visible(False)
        axes.set_axisbelow(True)
        draw(axes)
        content = io.StringIO()
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(content.getvalue(), label)


def _inline(text: str, label: str) -> Markup:
    """A file of Matplotlib's as an element of a page: its colours, its font, no size, no style."""
    svg = ET.fromstring(text)
    for parent in list(svg.iter()):
        for child in list(parent):
            if child.tag == f"{_SVG}style" or child.tag.endswith("metadata"):
                parent.remove(child)
    for element in svg.iter():
        element.tag = element.tag.removeprefix(_SVG)
        if element.tag == "g":
            element.attrib.pop("id", None)  # the same in every chart of the page
        for name in [name for name in element.attrib if name.endswith("}href")]:
            element.set("href", element.attrib.pop(name))
        if "style" in element.attrib:
            element.set("style", re.sub(r"font-family: [^;]*;? ?", "", element.attrib["style"]))
    for name in ("width", "height", "version"):
        svg.attrib.pop(name)
    svg.attrib |= {"role": "img", "aria-label": printable(label)}
    inlined = ET.tostring(svg, encoding="unicode")
    for colour, variable in _VARIABLES.items():
        inlined = inlined.replace(colour, f"var({variable})")
    return Markup(inlined)
