"""The command `fearec-score`: recommendations for everybody in a log, from a bundle.

pyarrow and onnxruntime are imported when the command runs, so that ``--help`` answers at once.
"""

import gc
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.config.settings import as_overrides, load_settings
from pipeline.errors import ConfigError
from pipeline.progress import work_progress
from pipeline.terminal import Json, print_plain, print_result, printed_errors
from pipeline.version import Version

if TYPE_CHECKING:
    from pipeline.results import Scored

NO_RECENT = (
    "no event within score.popular_within_days: users without a known item have what is popular in "
    "all events"
)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def command() -> None:
    """Run `fearec-score` as a process of its own."""
    # Modules loaded by now stay to the end: exempt them from garbage collection.
    gc.freeze()
    app()


@app.command()
def main(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Interaction logs (Parquet, CSV or JSON lines) or sequences (Parquet): "
            "files, folders, globs, local or "
            "s3://, gs://, abfs://.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str, typer.Option(metavar="BUNDLE", help="Folder of the model, local or as INPUT.")
    ],
    output: Annotated[
        str,
        typer.Option(metavar="OUT", help="Folder for the recommendations, local or as INPUT."),
    ],
    top_k: Annotated[
        int | None, typer.Option(help="Items per user. (default: 10)", show_default=False)
    ] = None,
    batch_size: Annotated[
        str | None, typer.Option(help="Users per batch, or auto. (default: auto)")
    ] = None,
    provider: Annotated[
        str | None, typer.Option(help="auto, cuda, tensorrt or cpu. (default: auto)")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32, or fp16 for GPUs. (default: fp32)")
    ] = None,
    devices: Annotated[
        str | None, typer.Option(help="GPUs, one process each, or auto for all. (default: 1)")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="local, or ray for a Ray cluster. (default: local)")
    ] = None,
    threads: Annotated[
        str | None, typer.Option(help="CPU threads, or auto. (default: auto, the usable cores)")
    ] = None,
    exclude_seen: Annotated[
        bool | None,
        typer.Option(
            "--exclude-seen/--include-seen",
            help="Whether items of a user's history are left out. (default: exclude-seen)",
        ),
    ] = None,
    allow: Annotated[
        str | None, typer.Option(metavar="FILE", help="Recommend only the item ids in FILE.")
    ] = None,
    deny: Annotated[
        str | None, typer.Option(metavar="FILE", help="Never recommend the item ids in FILE.")
    ] = None,
    candidates: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Recommend to each user only items of their rows (user_id, item_id) in FILE.",
        ),
    ] = None,
    exclude: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Never recommend to a user the items of their rows (user_id, item_id) in FILE.",
        ),
    ] = None,
    items: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Table of the items, for --where (CSV, Parquet, Delta)."),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            metavar="EXPR",
            help="Recommend only items for which EXPR is true, over the columns of --items.",
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(help="long: one row per user and rank; list: one per user. (default: long)"),
    ] = None,
    users: Annotated[
        str | None, typer.Option(metavar="FILE", help="Score only the user ids in FILE.")
    ] = None,
    run_date: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="Events up to the end of DATE count. (default: today)"),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Settings. (default: fearec.toml)")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="K=V", help="Override one setting.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier run's output.")
    ] = False,
    skip_bad_files: Annotated[
        bool, typer.Option("--skip-bad-files", help="Leave out unreadable files.")
    ] = False,
    as_json: Json = False,
    version: Version = False,
) -> None:
    """Recommend items to every user of INPUT with the model in BUNDLE."""
    flags = {
        "top_k": top_k,
        "batch_size": _number_or_word(batch_size),
        "provider": provider,
        "precision": precision,
        "devices": _number_or_word(devices),
        "threads": _number_or_word(threads),
        "exclude_seen": exclude_seen,
        "allow": allow,
        "deny": deny,
        "candidates": candidates,
        "exclude": exclude,
        "where": where,
        "layout": layout,
    }
    with printed_errors(as_json):
        from pipeline.bundles.transfer import opened_bundle
        from pipeline.scoring import score
        from pipeline.scoring.inputs import check_outside_bundle
        from pipeline.storage.folders import open_folder

        given = as_overrides("score", flags) + as_overrides("items", {"path": items})
        given += as_overrides("engine", {"kind": engine})
        settings = load_settings(config, [*(overrides or []), *given])
        day = _date(run_date) if run_date else settings.today()
        check_outside_bundle(open_folder(output), model)  # `score` may see a copy of the bundle
        with opened_bundle(model) as bundle, work_progress("scoring", "users") as progress:
            result = score(
                inputs,
                bundle,
                output,
                settings.score,
                logs=settings.logs,
                run_date=day,
                time_zone=settings.time_zone,
                items_table=settings.items.path,
                users_table=settings.users.path,
                similar_by=settings.items.similar_by,
                users=users,
                resume=resume,
                overwrite=overwrite,
                skip_bad_files=skip_bad_files,
                cache=settings.work_dir / "tensorrt",
                resources=settings.resources,
                engine=settings.engine,
                progress=progress,
            )
        print_result(result, lambda: print_plain(*summary(result)), as_json)


def summary(result: "Scored") -> list[str]:
    """The lines printed at the end: one per count that is not zero, the output and the speed."""
    lines = [f"dropped {count:,} rows: {reason}" for reason, count in result.dropped.items()]
    lines += [
        f"no event is of the type {kind!r} of score.exclude_seen" for kind in result.absent_types
    ]
    facts = {
        "rows that logs.keep leaves out": result.filtered,
        "duplicate rows kept once": result.duplicates,
        "events with items unknown to the bundle left out": result.unknown_items,
        "listed items unknown to the bundle": result.unknown_listed,
        "listed users are not in the input": result.absent_users,
        "users without a known item were given popular ones": result.n_fallback,
        "users have fewer than top_k recommendations": result.n_short,
        "unreadable files skipped: " + ", ".join(result.skipped_files): len(result.skipped_files),
    }
    if rules := result.rules:
        facts["items that score.where leaves out"] = rules.filtered_items
        facts["rows of the items table with an id unknown to the bundle"] = rules.unknown_rows
        facts["items of the bundle without a row in the items table"] = rules.missing_rows
    if new := result.new_items:
        facts["new items that may be recommended"] = new.listed
        facts["new items without a similar one in the bundle"] = new.without_similar
    if result.n_recent == 0:
        lines.append(NO_RECENT)
    facts |= result.user_list_facts()
    lines += [f"{count:,} {fact}" for fact, count in facts.items() if count]
    lines += [
        f"{each.n_users:,} users of segment {each.name}, of {each.listed:,} listed"
        for each in result.segments
    ]
    lines.append(f"{result.n_rows:,} rows in {result.folder}")
    where = result.provider if result.devices == 1 else f"{result.devices} x {result.provider}"
    precision = "" if result.precision == "fp32" else f" in {result.precision}"
    lines.append(f"model {result.model_version} on {where}{precision}")
    if result.precision == "fp16" and result.provider.startswith("CPU"):
        lines.append("fp16 is no faster on a CPU, which computes it in float32 after casts")
    lines.append(
        f"{result.n_users:,} users, {result.seconds:.1f} seconds, "
        f"{result.users_per_second:,.0f} users/s"
    )
    return lines


def _number_or_word(text: str | None) -> int | str | None:
    """A flag that is a number or a word; more digits than an int64 has are a word."""
    return int(text) if text and text.isdecimal() and len(text) < 20 else text


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            "not a date", "--run-date", expected="YYYY-MM-DD", found=repr(text)
        ) from None
