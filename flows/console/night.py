"""The report of a run or of one stage."""

from dataclasses import asdict
from typing import Any

from rich.table import Table

from flows.console.figures import print_metrics
from pipeline.config.settings import Settings
from pipeline.results import Evaluated, NewItemCounts, RuleCounts
from pipeline.runner.backfill import Backfilled
from pipeline.runner.cache import StageRecord
from pipeline.runner.failures import storage_failures
from pipeline.runner.nightly import FinishedRun
from pipeline.runner.stages import CheckData, Evaluate, Gate, Ingest, Publish, Score
from pipeline.schema import INTERACTIONS, QUARANTINE, RECOMMENDATIONS, RUNS, VOCABULARY
from pipeline.scoring.cli import NO_RECENT
from pipeline.storage.locations import Warehouse
from pipeline.terminal import Terminal, print_plain
from pipeline.warehouse.lookup import Recommended, first_users, recommended_to

_TABLES = (INTERACTIONS, QUARANTINE, VOCABULARY, RECOMMENDATIONS, RUNS)
_USERS, _ITEMS = 3, 5  # of the recommendations shown after a night
_MARKED = ("promoted", "new")  # sources whose scores are not in the order of the list


def print_night(settings: Settings, night: FinishedRun) -> None:
    """Print stage timings, headline metrics, where the outputs are, and some recommendations.

    Raises:
        StorageError: the recommendations cannot be read.
    """
    Terminal().print(_timings(night))
    print_plain(*headlines(night), "")
    warehouse = Warehouse(settings.warehouse)
    with storage_failures(settings):
        users = first_users(warehouse, night.run_date, _USERS)
        found = recommended_to(warehouse, users, night.run_date)
    print_plain(*(recommendations_line(recommended) for recommended in found))


def print_backfilled(done: Backfilled) -> None:
    """Print one line on a run date of a backfill."""
    line = f"{done.run_date}: {done.decision}; {done.model_version} serves"
    print_plain(line + ("; done before" if done.done_before else ""))


def night_result(settings: Settings, night: FinishedRun) -> dict[str, Any]:
    """A run for ``--json``: its decision, the records of its stages, metrics and tables."""
    warehouse, evaluated = Warehouse(settings.warehouse), night.results.get(Evaluate)
    return {
        "run_date": night.run_date,
        **asdict(night.results[Gate].result),
        "records": night.results.records,
        "metrics": evaluated.result if evaluated else None,
        "report": night.report,
        "tables": {name: warehouse.table(name) for name in _TABLES},
    }


def headlines(night: FinishedRun) -> list[str]:
    """Lines on the decision, the model beside the better baseline, and where the outputs are."""
    gated, published = night.results[Gate].result, night.results[Publish].result
    evaluated = night.results.get(Evaluate)
    scored = night.results[Score].result
    unknown = scored.unknown_listed
    quarantined = night.results[Ingest].result.quarantined_by_reason
    filtered = night.results[Ingest].result.filtered
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in quarantined.items())
    return [
        f"decision: {gated.decision}; {gated.model_version} serves",
        *(f"reason: {reason}" for reason in gated.reasons),
        *(f"note: {note}" for note in gated.notes),
        *_checks(night),
        *([f"quarantined: {reasons}"] if reasons else []),
        *([f"filtered: {filtered:,} rows that logs.keep leaves out"] if filtered else []),
        *(_metrics(evaluated.result) if evaluated else []),
        *([f"allow and deny files: {unknown:,} listed items unknown"] if unknown else []),
        *([_rules(scored.rules)] if scored.rules else []),
        *([_new_items(scored.new_items)] if scored.new_items else []),
        *([f"warning: {NO_RECENT}"] if scored.n_recent == 0 else []),
        *(f"{count:,} {fact}" for fact, count in scored.user_list_facts().items() if count),
        *(
            f"segment {each.name}: {each.n_users:,} users, of {each.listed:,} listed"
            for each in scored.segments
        ),
        *(
            f"warning: no event is of the type {kind!r} of score.exclude_seen"
            for kind in scored.absent_types
        ),
        f"bundle: {gated.bundle}",
        f"recommendations: {published.table}, {published.n_rows:,} rows "
        f"for {published.n_users:,} users",
        *([f"report: {night.report.page}"] if night.report else []),
    ]


def _checks(night: FinishedRun) -> list[str]:
    """Lines on the checks that did not pass; those that hold the run are among its reasons."""
    checks = (*night.results[CheckData].result.checks, *night.results[Publish].result.checks)
    words = {"warned": "warning", "overruled": "overruled"}
    return [
        f"{words[check.outcome]}: {check.message}" for check in checks if check.outcome in words
    ]


def _rules(rules: RuleCounts) -> str:
    """A line on what the rules over the items table did."""
    return (
        f"items: {rules.filtered_items:,} that score.where leaves out; of the items table "
        f"{rules.unknown_rows:,} rows unknown, {rules.missing_rows:,} missing"
    )


def _new_items(counts: NewItemCounts) -> str:
    return (
        f"new items: {counts.listed:,} that may be recommended, "
        f"{counts.without_similar:,} without a similar one"
    )


def _metrics(evaluated: Evaluated) -> list[str]:
    name, model, baseline, value = evaluated.headline
    ratio = f"{model / value:.1f} times" if value else f"while {baseline} is 0"
    champion = f"champion {evaluated.champion[name]:.4f}, " if evaluated.champion else ""
    return [
        f"{name}: model {model:.4f}, {champion}{baseline} {value:.4f} ({ratio})",
        f"protocol: {evaluated.protocol}",
    ]


def print_stage(record: StageRecord[Any]) -> None:
    """Print what a stage returned: metrics as a table, anything else as one line per field."""
    took = "done before" if record.reused else f"{record.seconds:.1f} seconds"
    print_plain(f"{record.stage}: {took}")
    if record.stage == "evaluate":
        print_metrics(record.result)
        return
    fields = asdict(record.result)
    checks = fields.pop("checks", ())
    print_plain(*(f"  {check['outcome']}: {check['message']}" for check in checks))
    print_plain(*(f"  {name}: {value}" for name, value in fields.items()))


def _timings(night: FinishedRun) -> Table:
    table = Table("stage", "seconds", "", title=f"Night of {night.run_date}", title_justify="left")
    table.columns[1].justify = "right"
    for record in night.results.records:
        table.add_row(record.stage, f"{record.seconds:.1f}", "done before" if record.reused else "")
    return table


def recommendations_line(recommended: Recommended) -> str:
    """A user's first items and scores."""
    items = [
        f"{item} {score:.2f}" + (f" {source}" if source in _MARKED else "")
        for (item, score), source in zip(recommended.items, recommended.sources, strict=True)
    ]
    return f"user {recommended.user_id} ({recommended.source}): {', '.join(items[:_ITEMS])}"
