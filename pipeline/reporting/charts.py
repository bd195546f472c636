"""The charts of a report, drawn by Matplotlib as SVG that takes its colours from the page."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colours that stand for the page's own: its style sheet has a light and a dark value of each.
_INK, _LINE = "#010101", "#020202"
_SERIES = ("#0a0001", "#0a0002", "#0a0003", "#0a0004")
_VARIABLES = {_INK: "--ink", _LINE: "--line"} | {
    colour: f"--series-{number}" for number, colour in enumerate(_SERIES, start=1)
}
_DASHES = ("-", "--", ":", "-.")  # so that lines differ without colours, too

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
    y: str,
    *,
    x: str = "",
    shaded: tuple[float, float] | None = None,
) -> str:
    """Lines by name, over dates or numbers.

    Args:
        title: What the chart shows, in words; also for screen readers.
        lines: By name; those without points are left out.
        y: The vertical axis.
        x: The horizontal axis.
        shaded: A span of x to shade.

    Returns:
        An ``<svg>`` element.
    """

    def draw(axes: "Axes") -> None:
        if shaded:
            axes.axvspan(*shaded, color=_LINE, alpha=0.5, linewidth=0)
        for number, (name, line) in enumerate(each for each in lines.items() if each[1].points):
            xs, ys = zip(*line.points, strict=True)
            colour, style = _SERIES[number % 4], _DASHES[number % 4]
            marker = "o" if len(xs) <= 28 else None
            axes.plot(xs, ys, style, color=colour, label=name, marker=marker, markersize=3)
            if line.band:
                low, high = zip(*line.band, strict=True)
                axes.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        if _over_dates(lines):
            axes.figure.autofmt_xdate(rotation=30)
        if sum(bool(line.points) for line in lines.values()) > 1:
            axes.legend(frameon=False, labelcolor=_INK)

    return _svg(title, draw)


def _over_dates(lines: Mapping[str, Line]) -> bool:
    return any(isinstance(x, date) for line in lines.values() for x, _ in line.points[:1])


def bar_chart(title: str, bars: Mapping[str, float], x: str) -> str:
    """Horizontal bars by name, the first on top, with their values beside them."""

    def draw(axes: "Axes") -> None:
        names = list(bars)[::-1]
        drawn = axes.barh(names, [bars[name] for name in names], color=_SERIES[0], height=0.6)
        axes.bar_label(drawn, fmt="%.3g", padding=3, color=_INK, fontsize=8)
        axes.margins(x=0.15)
        axes.set_xlabel(x)

    return _svg(title, draw, height=0.6 + 0.28 * max(len(bars), 3))


def interval_chart(title: str, intervals: Mapping[str, tuple[float, float, float]], x: str) -> str:
    """Means with their intervals (mean, low, high) by name, beside a line at 0."""

    def draw(axes: "Axes") -> None:
        for row, (mean, low, high) in enumerate(reversed(list(intervals.values()))):
            axes.plot([low, high], [row, row], color=_SERIES[0], linewidth=2)
            axes.plot([mean], [row], "o", color=_SERIES[0])
        axes.set_yticks(range(len(intervals)), list(intervals)[::-1])
        axes.set_ylim(-0.6, len(intervals) - 0.4)
        axes.axvline(0, color=_INK, linewidth=0.8)
        axes.set_xlabel(x)

    return _svg(title, draw, height=0.8 + 0.35 * len(intervals))


def sparkline(title: str, values: Sequence[float]) -> str:
    """A small line of the last runs' values without axes; the newest has a dot."""

    def draw(axes: "Axes") -> None:
        axes.plot(values, color=_SERIES[0], linewidth=1)
        axes.plot([len(values) - 1], values[-1:], "o", color=_SERIES[0], markersize=3)
        axes.axis("off")

    return _svg(title, draw, width=1.1, height=0.25)


def _svg(title: str, draw: Any, *, width: float = 6.4, height: float = 2.8) -> str:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "svg.fonttype": "none",  # text as text
        "text.parse_math": False,
        "svg.hashsalt": title,  # the same chart has the same bytes
        "font.family": "sans-serif",
        "font.size": 9,
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
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        axes.set_axisbelow(True)
        draw(axes)
        content = io.StringIO()
        figure.savefig(content, format="svg", metadata={"Date": None, "Title": title})
    svg = content.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # the same in every chart of the page
    svg = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", svg)  # the page's font
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    size = re.compile(r'<svg (.*?)height="[^"]*"(.*?)width="[^"]*"', re.S)
    return size.sub(r'<svg role="img" aria-label="LABEL" \1\2', svg, count=1).replace(
        "LABEL", _escaped(title), 1
    )


def _escaped(text: str) -> str:
    from markupsafe import escape

    return str(escape(text))
