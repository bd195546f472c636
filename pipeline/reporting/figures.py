"""The charts of a report's sections, each with its caption."""

import math
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from markupsafe import Markup

from pipeline.reporting.charts import Line, bar_chart, interval_chart, line_chart
from pipeline.reporting.content import Content
from pipeline.results import headline_metric, headline_of
from pipeline.schema import RUN_DATE

Chart = tuple[Markup, str]
Row = Mapping[str, Any]

_OTHERS = ("champion", "co_occurrence", "popularity")


def value_of(row: Row, column: str, name: str) -> float | None:
    """The value of a name in a column of names and values; None where there is none."""
    value = dict(row[column] or ()).get(name)
    return value if value is not None and math.isfinite(value) else None


def headline(rows: Sequence[Row]) -> str:
    """The metric that decides, of the newest run that measured one."""
    found = (headline_of(dict(row["metrics"] or ())) for row in reversed(rows))
    return next(filter(None, found), headline_metric([10]))


def quality_charts(content: Content) -> list[Chart]:
    """The differences from the others, and the metric over the last runs."""
    charts, evaluated = [], content.evaluated
    rows = [*content.earlier, content.row]
    metric = headline(rows)
    if evaluated and evaluated.differences:
        intervals = {
            name.replace("_", "-"): (each.mean, each.low, each.high)
            for name in _OTHERS
            if (each := evaluated.differences.get(name))
        }
        title = f"{metric} of this run's model less that of others, with 95% intervals"
        chart = interval_chart(title, intervals, f"difference in {metric}")
        charts.append((chart, f"{title}, for the same users and events"))
    return charts + metric_trend(rows, metric)


def metric_trend(rows: Sequence[Row], metric: str) -> list[Chart]:
    """The headline metric over run dates, of the model and of the others."""
    columns = {
        "model": "metrics",
        "champion": "champion_metrics",
        "popularity": "popularity_metrics",
        "co-occurrence": "co_occurrence_metrics",
    }
    lines = {name: Line(_points(rows, column, metric)) for name, column in columns.items()}
    low, high = (_points(rows, f"metrics_{end}", metric) for end in ("low", "high"))
    if len(low) == len(high) == len(lines["model"].points):
        band = [(below, above) for (_, below), (_, above) in zip(low, high, strict=True)]
        lines["model"] = Line(lines["model"].points, band)
    if len(lines["model"].points) < 2:
        return []
    title = f"{metric} of the last {len(rows)} run dates"
    shaded = "; shaded: 95% interval of the model's" if lines["model"].band else ""
    return [(line_chart(title, lines), f"{title}{shaded}")]


def _points(rows: Sequence[Row], column: str, name: str) -> list[tuple[date, float]]:
    found = ((row[RUN_DATE], value_of(row, column, name)) for row in rows)
    return [(day, value) for day, value in found if value is not None]


def realised_trend(rows: Sequence[Row]) -> list[Chart]:
    """The hit rate of the published lists over run dates, beside popularity's."""
    lines = {
        "lists": Line(_points(rows, "realised", "HR")),
        "popularity": Line(_points(rows, "realised", "popularity_HR")),
    }
    if len(lines["lists"].points) < 2:
        return []
    title = f"Realised hit rate of the last {len(rows)} run dates"
    return [(line_chart(title, lines), title)]


def list_charts(content: Content) -> list[Chart]:
    """The scores of the lists, and how evenly they use the items."""
    scores = {str(each.run_date): Line(each.scores) for each in content.lists}
    exposure = {str(each.run_date): Line(each.exposure) for each in content.lists}
    if not scores:
        return []
    title = "Share of the entries by score"
    held = "Share of all entries that the most listed items hold"
    x = "share of the listed items, most listed first"
    return [
        (line_chart(title, scores, x="score"), title),
        (line_chart(held, exposure, x=x), f"{held}; a straight line: all items alike"),
    ]


def training_charts(content: Content) -> list[Chart]:
    """Each metric of the training, by epoch."""
    return [
        (line_chart(f"{name} by epoch", {name: Line(points)}, x="epoch"), f"{name} by epoch")
        for name, points in content.curves.items()
        if len(points) > 1
    ]


def spectrum_charts(content: Content) -> list[Chart]:
    """What each layer keeps of the frequencies, and what comes out of it."""
    charts = []
    for each in content.spectra:
        lines = {
            "input": Line(list(enumerate(each.before))),
            "output": Line(list(enumerate(each.after))),
        }
        title = f"Layer {each.layer}: share of the energy in each frequency bin"
        band = (each.band[0] - 0.5, each.band[1] + 0.5) if each.band else None
        chart = line_chart(title, lines, x="frequency bin", shaded=band)
        bins = f"bins {each.band[0]} to {each.band[1]}" if each.band else "no bin"
        held = f"it chooses its delays by {bins}, {each.kept:.0%} of the input's energy"
        charts.append((chart, f"{title}; {held}"))
    return charts


def cost_charts(content: Content) -> list[Chart]:
    """The time of the stages, and the disk use."""
    seconds = dict(content.row["stage_seconds"] or ())
    disk = {name: size / 2**20 for name, size in content.disk.items()}
    charts = {"Time per stage": (seconds, "seconds"), "Disk use": (disk, "MiB")}
    return [
        (bar_chart(title, bars, x), f"{title}, in {x}")
        for title, (bars, x) in charts.items()
        if bars
    ]
