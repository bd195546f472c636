"""The reports of `fearec status` and `fearec clean`."""

from collections.abc import Sequence

from rich.filesize import decimal
from rich.table import Table

from flows.console.columns import folded
from pipeline.reporting.report import Report
from pipeline.results import Cleaned, Forgotten, RunSummary, Status
from pipeline.terminal import Terminal, print_plain


def print_status(found: Status) -> None:
    """Print the champion, a row per run date, why runs were held, and the disk use."""
    print_plain(
        f"champion: {found.champion or 'none yet'}"
        + (f", but {found.champion_fault}" if found.champion_fault else ""),
        *(
            [f"candidate: {found.candidate}"]
            if found.candidate not in (None, found.champion)
            else []
        ),
    )
    if found.runs:
        Terminal(wide=True).print(_runs(found.runs))
    print_plain(
        *(f"{run.run_date} {run.decision}: {each}" for run in found.runs for each in run.reasons),
        "disk: " + ", ".join(f"{name} {decimal(size)}" for name, size in found.disk.items()),
    )


def print_forgotten(forgotten: Forgotten) -> None:
    """Print which files were forgotten, what left the tables, and what still lies in the logs."""
    kept = forgotten.rows - forgotten.withdrawn
    print_plain(
        *(f"forgotten: {name}" for name in forgotten.files),
        f"withdrawn: {forgotten.withdrawn:,} events, {forgotten.quarantined:,} quarantined rows",
        *([f"kept: {kept:,} events that other files have too"] if kept else []),
        *(
            f"still there: {path}; it is read again when it changes, or by `fearec ingest --force`"
            for path in forgotten.still_there
        ),
    )


def print_report(report: Report) -> None:
    """Print where the page of a run date is, and the one over all."""
    print_plain(f"report: {report.page}", f"all run dates: {report.index}")


def print_cleaned(cleaned: Cleaned) -> None:
    """Print what was removed, a line per kind, and what it freed."""
    would = "would be removed" if cleaned.dry_run else "removed"
    kinds: dict[str, Sequence[object]] = {
        "work folders": cleaned.work,
        "models": cleaned.models,
        "run dates of recommendations": cleaned.partitions,
        "reports": cleaned.reports,
    }
    for kind, gone in kinds.items():
        if gone:
            print_plain(f"{kind} {would}: {', '.join(map(str, gone))}")
    for table in cleaned.tables:
        merged = f", {table.compacted} small ones merged" if table.compacted else ""
        print_plain(f"{table.name}: {table.files} files {would}{merged}")
    print_plain(f"{decimal(cleaned.bytes)} {'would be ' if cleaned.dry_run else ''}freed")


def _runs(runs: Sequence[RunSummary]) -> Table:
    headings = "run date", "decision", "metric", "model that serves", "finished (UTC)", "seconds"
    table = Table(*folded(*headings))
    for run in runs:
        table.add_row(
            str(run.run_date),
            run.decision,
            "" if run.value is None else f"{run.metric} {run.value:.4f}",
            run.model_version or "",
            f"{run.finished_at:%Y-%m-%d %H:%M}" if run.finished_at else "",
            f"{run.seconds:.0f}",
        )
    return table
