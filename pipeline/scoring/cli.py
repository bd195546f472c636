"""The command `fearec-score`: recommendations for everybody in a log, from a bundle.

pyarrow and onnxruntime are imported when the command runs, so that ``--help`` answers at once.
"""

import gc
import json
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.config.settings import load_settings
from pipeline.errors import ConfigError, FearecError, memory_failures
from pipeline.scoring.progress import scoring_progress
from pipeline.terminal import print_error, print_plain
from pipeline.version import Version

if TYPE_CHECKING:
    from pipeline.results import Scored

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
            help="Interaction logs or sequences: Parquet files, folders, globs, local or "
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
    version: Version = False,
) -> None:
    """Recommend items to every user of INPUT with the model in BUNDLE."""
    flags = {
        "top_k": top_k,
        "batch_size": batch_size,
        "provider": provider,
        "precision": precision,
        "devices": devices,
        "exclude_seen": exclude_seen,
        "allow": allow,
        "deny": deny,
        "layout": layout,
    }
    try:
        with memory_failures():
            from pipeline.bundles.transfer import opened_bundle
            from pipeline.scoring import score

            settings = load_settings(config, [*(overrides or []), *_as_overrides(flags)])
            day = _date(run_date) if run_date else settings.today()
            with opened_bundle(model) as bundle, scoring_progress() as progress:
                result = score(
                    inputs,
                    bundle,
                    output,
                    settings.score,
                    logs=settings.logs,
                    run_date=day,
                    time_zone=settings.time_zone,
                    users=users,
                    resume=resume,
                    overwrite=overwrite,
                    skip_bad_files=skip_bad_files,
                    cache=settings.work_dir / "tensorrt",
                    progress=progress,
                )
            print_plain(*summary(result))
    except FearecError as error:
        print_error(f"error: {error}")
        raise typer.Exit(error.exit_code) from None


def summary(result: "Scored") -> list[str]:
    """The lines printed at the end: one per count that is not zero, the output and the speed."""
    lines = [f"dropped {count:,} rows: {reason}" for reason, count in result.dropped.items()]
    facts = {
        "duplicate rows kept once": result.duplicates,
        "events with items unknown to the bundle left out": result.unknown_items,
        "listed items unknown to the bundle": result.unknown_listed,
        "listed users are not in the input": result.absent_users,
        "users without a known item were given popular ones": result.n_fallback,
        "users have fewer than top_k recommendations": result.n_short,
        "unreadable files skipped: " + ", ".join(result.skipped_files): len(result.skipped_files),
    }
    lines += [f"{count:,} {fact}" for fact, count in facts.items() if count]
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


def _as_overrides(flags: dict[str, Any]) -> list[str]:
    """The given flags in the form of ``--set``."""
    return [
        f"score.{name}={_toml(name, value)}" for name, value in flags.items() if value is not None
    ]


def _toml(name: str, value: Any) -> str:
    if name in ("batch_size", "devices") and value.isdecimal():
        return str(value)  # otherwise they are words; a file may have digits for a name
    return json.dumps(value if isinstance(value, bool | int) else str(value), ensure_ascii=False)


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            "not a date", "--run-date", expected="YYYY-MM-DD", found=repr(text)
        ) from None
