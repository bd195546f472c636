"""`fearec`: the night and its stages by hand. Nothing heavy is imported before a command runs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import Config, Day, Force, Overrides, as_date, new_app, one_line_errors
from pipeline.logs.imports.options import Columns, Format, Unit

app = new_app(no_args_is_help=True, help="Nightly sequential recommendation.")

STAGES = {
    "ingest": "Bring new log files into the warehouse; bad rows go into quarantine.",
    "prepare": "Make one sequence a user, and the vocabulary of items.",
    "train": "Train the model, starting from the champion's weights.",
    "evaluate": "Measure the model on held-out events, beside two baselines.",
    "export": "Make the ONNX bundle and check it against PyTorch.",
    "score": "Recommend items to every user with the bundle.",
    "publish": "Replace the run date's partition of the recommendations.",
}


@app.command()
@one_line_errors()
def nightly(
    config: Config = None, day: Day = None, overrides: Overrides = None, force: Force = False
) -> None:
    """Every stage, in order; what is done already is not done again."""
    from flows.console.night import print_night
    from pipeline.config.settings import load_settings
    from pipeline.runner.nightly import nightly as run_night

    settings = load_settings(config, overrides or ())
    night = run_night(settings, as_date(day) or settings.today(), force=force)
    print_night(settings, night)


def _stage_command(name: str) -> Callable[..., None]:
    @one_line_errors()
    def command(
        config: Config = None, day: Day = None, overrides: Overrides = None, force: Force = False
    ) -> None:
        from flows.console.night import print_stage
        from pipeline.config.settings import load_settings
        from pipeline.runner.nightly import run_stage
        from pipeline.runner.stages import stage_named

        settings = load_settings(config, overrides or ())
        run_date = as_date(day) or settings.today()
        print_stage(run_stage(settings, run_date, stage_named(name), force=force))

    return command


@one_line_errors()
def _evaluate(
    config: Config = None,
    day: Day = None,
    overrides: Overrides = None,
    force: Force = False,
    bundle: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Measure this bundle in ONNX Runtime instead; nothing is recorded.",
        ),
    ] = None,
) -> None:
    if bundle is None:
        _stage_command("evaluate")(config, day, overrides, force)
        return
    from flows.console.night import print_figures
    from pipeline.config.settings import load_settings
    from pipeline.runner.nightly import evaluate_bundle_of

    settings = load_settings(config, overrides or ())
    print_figures(evaluate_bundle_of(settings, as_date(day) or settings.today(), bundle))


for _name, _help in STAGES.items():
    app.command(_name, help=_help)(_evaluate if _name == "evaluate" else _stage_command(_name))


@app.command()
@one_line_errors()
def recommend(
    user_id: Annotated[str, typer.Argument(help="The user, as in the logs.", show_default=False)],
    config: Config = None,
    day: Day = None,
    overrides: Overrides = None,
) -> None:
    """A user's history and current recommendations, to look at."""
    from flows.console.night import print_user
    from pipeline.config.settings import load_settings

    print_user(load_settings(config, overrides or ()), user_id, as_date(day))


@app.command()
@one_line_errors()
def tune(
    params_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Search space, as RecBole's. (default: hyper.test)"),
    ] = None,
    config: Config = None,
    day: Day = None,
    algo: Annotated[
        str | None, typer.Option(help="exhaustive, random or tpe. (default: exhaustive)")
    ] = None,
    max_evals: Annotated[
        int | None, typer.Option(help="Trials. (default: every combination, or 100)")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Trials at a time. (default: 1)")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Folder of the search. (default: tune)")
    ] = None,
    overrides: Overrides = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin again; without it, a search goes on.")
    ] = False,
) -> None:
    """Search for hyper-parameters by validation; the best ones become OUT/fearec.toml."""
    flags = {
        "params_file": params_file,
        "algo": algo,
        "max_evals": max_evals,
        "workers": workers,
        "out": out,
    }
    from flows.console.search import print_search, search_progress
    from pipeline.config.settings import load_settings
    from pipeline.tuning.tune import tune as search

    # Those not given override nothing.
    given = [f"tune.{name}={_toml(value)}" for name, value in flags.items() if value is not None]
    settings = load_settings(config, [*(overrides or ()), *given])
    with search_progress() as progress:
        tuned = search(
            settings, as_date(day) or settings.today(), overwrite=overwrite, progress=progress
        )
    print_search(tuned)


def _toml(value: str | int | Path) -> str:
    return json.dumps(value if isinstance(value, int) else str(value), ensure_ascii=False)


@app.command("import")
@one_line_errors()
def import_logs(
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help="Text; .gz and the like too.", show_default=False)
    ],
    kind: Annotated[Format, typer.Option("--format", help="What wrote the file.")],
    out: Annotated[Path, typer.Option(metavar="LOGS", help="Folder to make.")],
    user: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="The users. (default: user_id)")
    ] = None,
    item: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="The items. (default: item_id)")
    ] = None,
    timestamp: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="The times. (default: timestamp)")
    ] = None,
    timestamp_unit: Annotated[
        Unit | None,
        typer.Option(help="Seconds or milliseconds since the epoch, or ISO 8601. (default: s)"),
    ] = None,
    delimiter: Annotated[
        str | None, typer.Option(help=r"csv: between two fields; \t is a tab. (default: ,)")
    ] = None,
    no_header: Annotated[
        bool, typer.Option("--no-header", help="csv: columns have numbers from 1, not names.")
    ] = False,
    skip_bad_lines: Annotated[
        bool, typer.Option("--skip-bad-lines", help="Leave bad lines out, and write them aside.")
    ] = False,
) -> None:
    """Other people's data into Parquet logs; the columns are for recbole and csv."""
    from flows.console.night import print_import
    from pipeline.logs.imports.importer import import_logs as run_import
    from pipeline.scoring.progress import importing_progress

    columns = Columns(user, item, timestamp, timestamp_unit, delimiter, not no_header)
    with importing_progress() as progress:
        imported = run_import(
            path, out, kind, columns, skip_bad_lines=skip_bad_lines, progress=progress
        )
    print_import(imported)


if __name__ == "__main__":
    app()
