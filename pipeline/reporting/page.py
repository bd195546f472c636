"""The pages of a report: words, tables and charts of what was gathered."""

from collections.abc import Collection, Sequence
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
    realised_charts,
    spectrum_charts,
    training_charts,
    value_of,
)
from pipeline.results import Evaluated
from pipeline.schema import RUN_DATE
from pipeline.version import fearec_version

_TONES = {"held": "warn", "forced": "warn", "rolled back": "warn", "failed": "bad"}
_OUTCOMES = {"passed": "good", "warned": "warn", "overruled": "warn", "held": "bad"}
_SENTENCES = {
    "first": "The first model serves.",
    "promoted": "Tonight's model is the new champion and serves.",
    "held": "Tonight's model does not serve: the champion does.",
    "forced": "A person had this model published, whatever the checks and the gate said.",
    "rolled back": "A person went back to an earlier model, which serves.",
    "failed": "The night failed. The table of recommendations is as it was.",
}
_REMEDIES = {
    "held": "To look closer: fearec models diff {champion} {candidate}. To publish in any case: "
    "fearec nightly --date {day} --force-publish.",
    "failed": "What is done stays done: fearec nightly --date {day} goes on where it stopped.",
}
_COUNTS = {
    "n_added": "new events",
    "n_duplicates": "repeated rows",
    "n_quarantined": "rows into quarantine",
    "n_interactions": "events",
    "n_users": "users",
    "n_items": "items",
    "n_recommendations": "rows published",
    "n_fallback": "users with popular items",
}


def night_page(content: Content) -> str:
    """The page of one run date, self-contained."""
    row, evaluated = content.row, content.evaluated
    candidate, champion = row["candidate"], row["champion"]
    remedy = _REMEDIES.get(row["decision"], "")
    if not candidate:
        remedy = remedy.partition(". ")[2] or remedy
    named = {"champion": champion, "candidate": candidate, "day": content.run_date}
    columns, metrics = _metrics(evaluated)
    given = {
        "row": row,
        "run_date": content.run_date,
        "finished_at": content.finished_at,
        "tone": _tone(row["decision"]),
        "sentence": _SENTENCES.get(row["decision"], ""),
        "reasons": [*(row["reasons"] or ()), *([row["error"]] if row["error"] else ())],
        "remedy": remedy.format(**named),
        "missing": content.missing,
        "last_runs": LAST_RUNS,
        "counts": _counts(content),
        "check_tables": [
            ("Checks of the data", _checks(content, "checks")),
            ("Checks of the recommendations", _checks(content, "table_checks")),
        ],
        "bad_rows": content.bad_rows,
        "metric_columns": columns,
        "metrics": metrics,
        "not_compared": evaluated.not_compared if evaluated else None,
        "quality_charts": quality_charts(content),
        "realised": _realised(row),
        "realised_charts": realised_charts(content),
        "lists": content.lists,
        "list_charts": list_charts(content),
        "training_charts": training_charts(content),
        "spectrum_charts": spectrum_charts(content),
        "users": content.users,
        "titles": content.titles,
        "cost_charts": cost_charts(content),
    }
    shown = {
        "realised": "What users then took",
        "list_charts": "The lists",
        "training_charts": "Training",
        "spectrum_charts": "Frequency response",
        "users": "Some users",
    }
    ids = {"list_charts": "lists", "training_charts": "training", "spectrum_charts": "frequencies"}
    sections = [("checks", "Data and checks"), ("quality", "Quality")]
    sections += [(ids.get(key, key), name) for key, name in shown.items() if given[key]]
    return _render("night.html", sections=[*sections, ("costs", "Time and disk")], **given)


def index_page(rows: Sequence[Row], pages: Collection[date]) -> str:
    """The page over all run dates.

    Args:
        rows: The newest of each run date, oldest first.
        pages: Run dates that have a page of their own.
    """
    metric = headline(rows)
    nights = [
        {
            "run_date": row[RUN_DATE],
            "page": row[RUN_DATE] in pages,
            "decision": row["decision"],
            "tone": _tone(row["decision"]),
            "value": _number(value_of(row, "metrics", metric)),
            "champion": _number(value_of(row, "champion_metrics", metric)),
            "realised": _number(value_of(row, "realised", "HR")),
            "rows": _number(row["n_recommendations"]),
            "seconds": _number(round(row["seconds"])),
            "model_version": row["model_version"] or "",
            "why": "; ".join([*(row["reasons"] or ()), *([row["error"]] if row["error"] else ())]),
        }
        for row in reversed(rows)
    ]
    charts = metric_trend(rows, metric) if len(rows) > 1 else []
    return _render("index.html", nights=nights, metric=metric, charts=charts)


def _render(template: str, **given: Any) -> str:
    pages = Environment(
        loader=PackageLoader("pipeline.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return pages.get_template(template).render(version=fearec_version(), **given)


def _tone(decision: str) -> str:
    return _TONES.get(decision, "good")


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _counts(content: Content) -> list[tuple[str, str, Markup]]:
    found = []
    for column, name in _COUNTS.items():
        earlier = [row[column] for row in content.earlier if row[column] is not None]
        if content.row[column] is not None:
            values = [*earlier, content.row[column]]
            found.append((name, _number(content.row[column]), _sparkline(name, values)))
    return found


def _checks(content: Content, column: str) -> list[dict[str, Any]]:
    found = []
    for check in content.row[column] or ():
        past = [
            each["value"]
            for row in content.earlier
            for each in row[column] or ()
            if each["name"] == check["name"] and each["value"] is not None
        ]
        values = [*past, check["value"]] if check["value"] is not None else []
        tone, trend = _OUTCOMES[check["outcome"]], _sparkline(check["name"], values)
        found.append({**check, "tone": tone, "trend": trend})
    return sorted(found, key=lambda each: list(_OUTCOMES).index(each["outcome"]), reverse=True)


def _sparkline(name: str, values: Sequence[float]) -> Markup:
    if len(values) < 2:
        return Markup("")
    return Markup(sparkline(f"{name}, last {len(values)} runs", values))


def _metrics(evaluated: Evaluated | None) -> tuple[list[str], list[tuple[str, list[str]]]]:
    if evaluated is None:
        return [], []
    columns = {"model": evaluated.model}
    if evaluated.champion:
        columns["champion"] = evaluated.champion
    columns |= {"popularity": evaluated.popularity, "co_occurrence": evaluated.co_occurrence}

    def cell(column: str, name: str) -> str:
        interval = evaluated.intervals.get(column, {}).get(name)
        value = _number(columns[column].get(name))
        return value + (f" ({interval[0]:.4f} to {interval[1]:.4f})" if interval else "")

    rows = [(name, [cell(column, name) for column in columns]) for name in evaluated.model]
    return [name.replace("_", "-") for name in columns], rows


def _realised(row: Row) -> list[tuple[str, str]]:
    names = {
        "HR": "users with a hit among those who took something",
        "popularity_HR": "the same with the most popular items for everybody",
        "n_users": "users who took something and had a list",
    }
    values = dict(row["realised"] or ())
    return [
        (names.get(name, name.replace("_", " ")), _number(int(v) if name[:2] == "n_" else v))
        for name, v in values.items()
        if v is not None
    ]
