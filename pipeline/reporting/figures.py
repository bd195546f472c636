"""The charts of a report's sections, each with its caption."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from markupsafe import Markup

from pipeline.reporting.charts import Line, bar_chart, interval_chart, line_chart
from pipeline.reporting.content import Content
from pipeline.results import headline_metric
from pipeline.schema import RUN_DATE

Chart = tuple[Markup, str]
Row = Mapping[str, Any]


def value_of(row: Row, column: str, name: str) -> float | None:
    """The value of a name in a column of names and values; None where there is none."""
    return dict(row[column] or ()).get(name)


def headline(rows: Sequence[Row]) -> str:
    """The metric that decides, of the runs that measured one."""
    names = [name for row in rows for name, _ in row["metrics"] or () if name.startswith("NDCG@")]
    return headline_metric([int(name.removeprefix("NDCG@")) for name in names] or [10])


def quality_charts(content: Content) -> list[Chart]:
    """The differences from the others, and the metric over the last runs."""
    charts, evaluated = [], content.evaluated
    metric = headline([*content.earlier, content.row])
    if evaluated and evaluated.differences:
        intervals = {
            name.replace("_", "-"): (each.mean, each.low, each.high)
            for name, each in evaluated.differences.items()
        }
        title = f"{metric} of tonight's model less that of others, with 95% intervals"
        chart = interval_chart(title, intervals, f"difference in {metric}")
        charts.append((Markup(chart), f"{title}, for the same users and events"))
    return charts + metric_trend([*content.earlier, content.row], metric)


def metric_trend(rows: Sequence[Row], metric: str) -> list[Chart]:
    """The headline metric of the last runs, of the model and of the others."""
    columns = {
        "model": "metrics",
        "champion": "champion_metrics",
        "popularity": "popularity_metrics",
        "co-occurrence": "co_occurrence_metrics",
    }
    lines = {name: Line(_points(rows, column, metric)) for name, column in columns.items()}
    bands = list(zip(_points(rows, "metrics_low", metric), _points(rows, "metrics_high", metric),
                     strict=True))  # fmt: skip
    if len(bands) == len(lines["model"].points):
        band = [(low, high) for (_, low), (_, high) in bands]
        lines["model"] = Line(lines["model"].points, band)
    if len(lines["model"].points) < 2:
        return []
    title = f"{metric} of the last {len(rows)} run dates"
    return [(Markup(line_chart(title, lines, metric)), f"{title}; shaded: 95% interval")]


def _points(rows: Sequence[Row], column: str, name: str) -> list[tuple[date, float]]:
    found = ((row[RUN_DATE], value_of(row, column, name)) for row in rows)
    return [(day, value) for day, value in found if value is not None]


def realised_charts(content: Content) -> list[Chart]:
    """The hit rate of the published lists over the last runs, beside popularity's."""
    rows = [*content.earlier, content.row]
    lines = {
        "lists": Line(_points(rows, "realised", "HR")),
        "popularity": Line(_points(rows, "realised", "popularity_HR")),
    }
    if len(lines["lists"].points) < 2:
        return []
    title = "Hit rate of the published lists"
    return [(Markup(line_chart(title, lines, "HR")), title)]


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
        (Markup(line_chart(title, scores, "share", x="score")), title),
        (Markup(line_chart(held, exposure, "share of entries", x=x)),
         f"{held}; a straight line would be all items alike"),
    ]  # fmt: skip


def training_charts(content: Content) -> list[Chart]:
    """Each metric of the training, by epoch."""
    charts = []
    for name, points in content.curves.items():
        if len(points) > 1:
            title = f"{name} by epoch"
            charts.append((Markup(line_chart(title, {name: Line(points)}, name, x="epoch")), title))
    return charts


def spectrum_charts(content: Content) -> list[Chart]:
    """What each layer keeps of the frequencies, and what comes out of it."""
    charts = []
    for each in content.spectra:
        lines = {
            "input": Line(list(enumerate(each.before))),
            "output": Line(list(enumerate(each.after))),
        }
        title = f"Layer {each.layer}: energy by frequency"
        band = (each.band[0] - 0.5, each.band[1] + 0.5) if each.band else None
        chart = line_chart(title, lines, "share of energy", x="frequency bin", shaded=band)
        bins = f"bins {each.band[0]} to {each.band[1]}" if each.band else "no bin"
        caption = (
            f"{title}; its autocorrelation keeps {bins}, {each.kept:.0%} of the input's energy"
        )
        charts.append((Markup(chart), caption))
    return charts


def cost_charts(content: Content) -> list[Chart]:
    """The time of the stages, and the disk use."""
    seconds = dict(content.row["stage_seconds"] or ())
    disk = {name: size / 2**20 for name, size in content.disk.items()}
    charts = {"Seconds per stage": (seconds, "seconds"), "Disk": (disk, "MiB")}
    return [
        (Markup(bar_chart(title, bars, x)), title) for title, (bars, x) in charts.items() if bars
    ]
