"""The reports on model versions: their list, one in full, two compared, a new champion."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError
from rich.box import SIMPLE_HEAD
from rich.filesize import decimal
from rich.table import Table

from flows.console.columns import folded
from flows.console.figures import print_metrics
from pipeline.bundles.promotion import Promotion
from pipeline.bundles.versions import ModelVersions, VersionDetails, VersionDifference, leaves
from pipeline.results import Evaluated
from pipeline.terminal import Terminal, print_plain


def print_versions(found: ModelVersions) -> None:
    """Print a table with a row per model version, and a line per bundle that cannot be read."""
    metrics = {version.metric for version in found.versions if version.metric}
    value = metrics.pop() if len(metrics) == 1 else "metric"
    headings = ("version", "run date", "created", value, "decision", "alias", "serves", "parent")
    table = _table(*headings, "size")
    for version in found.versions:
        days = len(version.served)
        table.add_row(
            version.model_version,
            str(version.run_date or ""),
            f"{version.created_at:%Y-%m-%d %H:%M}",
            "" if version.value is None else f"{version.value:.4f}",
            version.decision or "",
            ", ".join(version.aliases),
            f"{days} {'date' if days == 1 else 'dates'}" if days else "",
            version.parent or "",
            decimal(version.size),
        )
    if found.versions:
        Terminal(wide=True).print(table)
    elif not found.unreadable:
        print_plain("There are no models yet.")
    print_plain(*found.unreadable)


def print_details(details: VersionDetails) -> None:
    """Print what is known of one model version, a line or a table per section."""
    version, described = details.version, details.description
    print_plain(
        f"version: {version.model_version}",
        f"alias: {', '.join(version.aliases) or 'none'}",
        f"created: {version.created_at:%Y-%m-%d %H:%M:%S} UTC",
        f"parent: {version.parent or 'none, it started anew'}",
        f"size: {decimal(version.size)} in {len(described.files) + 1} files",
        f"refitted on the held-out items: {'yes' if described.refit else 'no'}",
        "",
        "serves: " + ("" if details.decisions else "no run date"),
        *(f"  {day}: {decision}" for day, decision in details.decisions.items()),
        "",
    )
    _print_metrics(described.metrics)
    _print_section("data", described.data.model_dump(mode="json"))
    _print_section("hyper-parameters", described.hyper_parameters)
    _print_section("settings", dict(leaves(described.settings)))
    _print_section("parity with PyTorch", described.parity)
    _print_section("versions", described.versions)


def print_promotion(promotion: Promotion, *, republish: bool) -> None:
    """Print which model is the champion now, and what follows from it."""
    before, now = promotion.before, promotion.now
    print_plain(
        f"champion: {now.model_version} ({now.decision})"
        + (f", in place of {before.model_version}" if before else ""),
        f"The run after {now.run_date} starts from it; one at work already does not.",
    )
    if not republish:
        print_plain(
            f"The recommendations of {now.run_date} stay as they are;"
            f" `fearec nightly --date {now.run_date}` makes them come from it."
        )


def print_differences(first: str, second: str, differences: tuple[VersionDifference, ...]) -> None:
    """Print a table with a row per difference."""
    if not differences:
        print_plain("No difference.")
        return
    table = _table("", first, second)
    for difference in differences:
        table.add_row(difference.name, _cell(difference.first), _cell(difference.second))
    Terminal(wide=True).print(table)


def _print_metrics(metrics: Mapping[str, Any]) -> None:
    try:
        print_metrics(TypeAdapter(Evaluated).validate_python(metrics))
    except ValidationError:  # of a bundle that was made otherwise
        _print_section("metrics", metrics)
    else:
        print_plain("")


def _print_section(heading: str, values: Mapping[str, Any]) -> None:
    print_plain(f"{heading}:", *(f"  {name}: {_cell(value)}" for name, value in values.items()), "")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _table(*headings: str) -> Table:
    return Table(*folded(*headings), box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
