"""The pages of a report: words, tables and charts of what was gathered."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import date
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.reporting.charts import sparkline
from pipeline.reporting.content import LAST_RUNS, Content
from pipeline.reporting.figures import (
    Row,
    cost_charts,
    headline,
    list_charts,
    metric_trend,
    quality_charts,
    realised_trend,
    spectrum_charts,
    training_charts,
    value_of,
)
from pipeline.reporting.words import commands, remedies, sentence, tone
from pipeline.results import Evaluated
from pipeline.schema import RUN_DATE
from pipeline.terminal import printable
from pipeline.version import fearec_version
from pipeline.warehouse.runs import reasons_of

_OUTCOMES = {"held": "bad", "overruled": "warn", "warned": "warn", "passed": "good"}
_COUNTS = {
    "n_added": "new events",
    "n_duplicates": "repeated rows",
    "n_quarantined": "rows into quarantine",
    "n_filtered": "rows that logs.keep leaves out",
    "n_interactions": "events up to the run date",
    "n_users": "users",
    "n_items": "items",
    "n_recommendations": "rows published",
    "n_fallback": "users with popular items only",
    "seconds": "seconds of all stages",
}
# Of the table `runs`.
INDEX_COLUMNS = (
    RUN_DATE, "decision", "metrics", "metrics_low", "metrics_high", "champion_metrics",
    "popularity_metrics", "co_occurrence_metrics", "realised", "n_recommendations", "seconds",
    "model_version", "reasons", "error",
)  # fmt: skip
_ON_INDEX = 400  # run dates in the charts of the index
_LONGEST_REASON = 160


def night_page(content: Content, others: Collection[date] = ()) -> str:
    """The page of one run date, self-contained.

    Args:
        content: What it shows.
        others: Run dates that have a page.
    """
    row, evaluated, rows = content.row, content.evaluated, [*content.earlier, content.row]
    columns, first, more = _metrics(evaluated)
    given = {
        "row": row,
        "run_date": content.run_date,
        "finished_at": content.finished_at,
        "earlier_page": max((day for day in others if day < content.run_date), default=None),
        "tone": tone(row["decision"]),
        "sentence": sentence(row),
        "reasons": reasons_of(row),
        "notes": content.notes,
        "remedies": remedies(row),
        "commands": commands(row),
        "served": content.published[0] if content.published else None,
        "tiles": _tiles(content),
        "missing": content.missing,
        "last_runs": LAST_RUNS,
        "counts": _counts(rows),
        "last_event": row["last_event"],
        "check_lists": [
            ("Checks of the data", _checks(rows, "checks")),
            ("Checks of the recommendations", _checks(rows, "table_checks")),
        ],
        "bad_rows": content.bad_rows,
        "evaluated": evaluated,
        "metric_columns": columns,
        "metrics": first,
        "more_metrics": more,
        "type_metrics": _by_type(evaluated, columns),
        "quality_charts": quality_charts(content),
        "realised": _realised(row),
        "realised_charts": realised_trend(rows),
        "lists": content.lists,
        "list_charts": list_charts(content),
        "training_charts": training_charts(content),
        "spectra": content.spectra,
        "spectrum_charts": spectrum_charts(content),
        "users": content.users,
        "titles": content.titles or {},
        "cost_charts": cost_charts(content),
    }
    sections = {
        "checks": ("Data and checks", True),
        "quality": ("Quality", True),
        "realised": ("What users then took", given["realised"]),
        "lists": ("Lists", content.lists),
        "users": ("Some users", content.users),
        "training": ("Training", given["training_charts"]),
        "frequencies": ("Frequency response", content.spectra),
        "costs": ("Time and disk", True),
        "commands": ("Commands", True),
    }
    shown = [(id_, name) for id_, (name, is_shown) in sections.items() if is_shown]
    return _render("night.html", sections=shown, **given)


def index_page(rows: Sequence[Row], pages: Collection[date]) -> str:
    """The page over all run dates.

    Args:
        rows: The newest of each run date, oldest first, with `INDEX_COLUMNS`.
        pages: Run dates that have a page of their own.
    """
    metric = headline(rows)
    nights = [
        {
            "run_date": row[RUN_DATE],
            "page": row[RUN_DATE] in pages,
            "decision": row["decision"],
            "tone": tone(row["decision"]),
            "value": _number(value_of(row, "metrics", metric)),
            "champion": _number(value_of(row, "champion_metrics", metric)),
            "realised": _percent(value_of(row, "realised", "HR")),
            "rows": _number(row["n_recommendations"]),
            "duration": _duration(row["seconds"]),
            "model_version": row["model_version"] or "",
            "why": _shortened("; ".join(reasons_of(row))),
        }
        for row in reversed(rows)
    ]
    last = rows[-_ON_INDEX:]
    charts = metric_trend(last, metric) + realised_trend(last)
    return _render("index.html", nights=nights, metric=metric, charts=charts)


def _render(template: str, **given: Any) -> str:
    pages = Environment(
        loader=PackageLoader("pipeline.reporting"),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return pages.get_template(template).render(version=fearec_version(), **given)


def _visible(value: Any) -> Any:
    """Text of ids, titles and messages without control characters; markup is left alone."""
    return printable(value) if type(value) is str else value


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 1] + "…"


def _tiles(content: Content) -> list[tuple[str, str, str, str]]:
    """What the page begins with: names, values, remarks, and the sections with more of it."""
    row, found = content.row, []
    if content.evaluated and content.evaluated.popularity:
        metric, model, baseline, value = content.evaluated.headline
        others = {"champion": content.evaluated.champion.get(metric), baseline: value}
        remark = ", ".join(f"{name} {_number(v)}" for name, v in others.items() if v is not None)
        found.append((metric, _number(model), remark, "quality"))
    outcomes = Counter(
        check["outcome"] for name in ("checks", "table_checks") for check in row[name] or ()
    )
    failed = [
        f"{outcomes[name]} {name}" for name in _OUTCOMES if name != "passed" and outcomes[name]
    ]
    if outcomes:
        found.append(
            ("Checks", ", ".join(failed) or "all passed", f"{outcomes['passed']} passed", "checks")
        )
    if row["n_added"] is not None:
        all_events = row["n_interactions"]
        remark = "" if all_events is None else f"of {all_events:,}"
        found.append(("New events", _number(row["n_added"]), remark, "checks"))
    if (hits := value_of(row, "realised", "HR")) is not None:
        popular = _percent(value_of(row, "realised", "popularity_HR"))
        found.append(("Users with a hit", _percent(hits), f"popular items {popular}", "realised"))
    if row["n_recommendations"] is not None:
        remark = f"{row['n_fallback'] or 0:,} users with popular items"
        found.append(("Rows published", _number(row["n_recommendations"]), remark, "lists"))
    found.append(("Time", _duration(row["seconds"]), "of all stages", "costs"))
    return found


def _counts(rows: Sequence[Row]) -> list[tuple[str, str, Markup]]:
    found = []
    for column, name in _COUNTS.items():
        values = [row[column] for row in rows if row[column] is not None]
        if (value := rows[-1][column]) is not None:
            shown = _number(round(value))
            found.append((name, shown, sparkline(name, values)))
    return found


def _checks(rows: Sequence[Row], column: str) -> Mapping[str, list[dict[str, Any]]]:
    """The checks that passed, and those that did not, the worst first, with their trends."""
    found: dict[str, list[dict[str, Any]]] = {"failed": [], "passed": []}
    past: dict[str, list[float]] = {}
    for row in rows:
        for check in row[column] or ():
            if check["value"] is not None:
                past.setdefault(check["name"], []).append(check["value"])
    for check in rows[-1][column] or ():
        name, outcome = check["name"], check["outcome"]
        trend = sparkline(f"check {name}", past[name]) if check["value"] is not None else ""
        kind = "passed" if outcome == "passed" else "failed"
        found[kind].append({**check, "tone": _OUTCOMES[outcome], "trend": trend})
    found["failed"].sort(key=lambda each: list(_OUTCOMES).index(each["outcome"]))
    return found


def _metrics(
    evaluated: Evaluated | None,
) -> tuple[list[str], Sequence[Any], Sequence[Any]]:
    """The names of the columns; the rows at the k that decides, and the others.

    A row is a metric's name and, per column, its value and its interval.
    """
    if evaluated is None:
        return [], [], []
    columns = {"model": evaluated.model}
    if evaluated.champion:
        columns["champion"] = evaluated.champion
    columns |= {"popularity": evaluated.popularity, "co_occurrence": evaluated.co_occurrence}

    def cell(column: str, name: str) -> tuple[str, str]:
        interval = evaluated.intervals.get(column, {}).get(name)
        between = "" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"
        return _number(columns[column].get(name)), between

    rows = [(name, [cell(column, name) for column in columns]) for name in evaluated.model]
    at_k = f"@{evaluated.headline_k}"
    first = [row for row in rows if row[0].endswith(at_k)]
    more = [row for row in rows if not row[0].endswith(at_k)]
    return [name.replace("_", "-") for name in columns], first, more


def _by_type(evaluated: Evaluated | None, columns: Sequence[str]) -> Sequence[Any]:
    """The rows of the table by type of event: the type with its users, and as in `_metrics`."""
    if evaluated is None:
        return []
    rows: list[Any] = []
    metric = evaluated.headline[0]
    for kind, found in evaluated.by_event_type.items():
        of_scorers = [found.metrics[name.replace("-", "_")][metric] for name in columns]
        rows.append((f"{kind} ({found.n_users:,} users)", [(_number(n), "") for n in of_scorers]))
    return rows


def _realised(row: Row) -> dict[str, Any] | None:
    values = dict(row["realised"] or ())
    if "HR" not in values:
        return None
    names = {"HR": "users who took something of it", "event_HR": "events that it held"}
    return {
        "n_users": int(values.get("n_users", 0)),
        "n_events": int(values.get("n_events", 0)),
        "rows": [
            (name, _percent(values.get(key)), _percent(values.get(f"popularity_{key}")))
            for key, name in names.items()
            if key in values
        ],
    }
