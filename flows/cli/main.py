"""The command `fearec`: the whole nightly run, each of its stages, and tools beside it.

Every command imports what it needs when it is called, so that ``--help`` answers at once.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.imports import import_logs
from flows.cli.models import models
from flows.cli.operations import automations, backfill, serve
from flows.cli.options import (
    Config,
    Day,
    Engine,
    Force,
    ForcePublish,
    Json,
    Overrides,
    PublishedDay,
    as_date,
    new_app,
    one_line_errors,
    print_result,
    with_engine,
)
from flows.cli.related import audience, embeddings, related
from flows.cli.tune import tune
from flows.cli.upkeep import clean, report, status
from pipeline.errors import ConfigError
from pipeline.version import Version

app = new_app(no_args_is_help=True)


@app.callback()
def main(version: Version = False) -> None:
    """Nightly sequential recommendation."""


STAGES = {
    "ingest": "Add new log files to the warehouse; bad rows go into quarantine.",
    "prepare": "Write one sequence per user, and the vocabulary of items.",
    "check": "Check the data, before a model is trained on it.",
    "train": "Train the model, starting from the champion's weights.",
    "evaluate": "Evaluate the model on held-out events, beside two baselines.",
    "export": "Write the ONNX bundle and check it against PyTorch.",
    "gate": "Decide which model serves: the new one, or the champion.",
    "score": "Recommend items to every user with the bundle.",
    "publish": "Replace the run date's partition of the recommendations.",
}


@app.command()
@one_line_errors()
def nightly(
    config: Config = None,
    day: Day = None,
    overrides: Overrides = None,
    force: Force = False,
    force_publish: ForcePublish = False,
    engine: Engine = None,
    as_json: Json = False,
) -> None:
    """Run every stage, in order; what is done already is not done again."""
    from flows.console.night import night_result, print_night
    from pipeline.config.settings import load_settings
    from pipeline.runner.nightly import nightly as run_night

    settings = load_settings(config, with_engine(overrides, engine))
    run_date = as_date(day) or settings.today()
    night = run_night(settings, run_date, force=force, force_publish=force_publish)
    print_result(night_result(settings, night), partial(print_night, settings, night), as_json)


def _run_stage(
    name: str,
    config: Path | None,
    day: datetime | None,
    overrides: list[str] | None,
    force: bool,
    as_json: bool,
) -> None:
    from flows.console.night import print_stage
    from pipeline.config.settings import load_settings
    from pipeline.runner.nightly import run_stage
    from pipeline.runner.stages import stage_named

    settings = load_settings(config, overrides or ())
    run_date = as_date(day) or settings.today()
    record = run_stage(settings, run_date, stage_named(name), force=force)
    print_result(record, partial(print_stage, record), as_json)


def _stage_command(name: str) -> Callable[..., None]:
    @one_line_errors()
    def command(
        config: Config = None,
        day: Day = None,
        overrides: Overrides = None,
        force: Force = False,
        as_json: Json = False,
    ) -> None:
        _run_stage(name, config, day, overrides, force, as_json)

    return command


def _check_unused(option: str, others: Mapping[str, object]) -> None:
    """Check that no option is given that means nothing beside another one.

    Raises:
        ConfigError: one is.
    """
    for other, value in others.items():
        if value:
            raise ConfigError("means nothing beside another option", other, found=option)


@one_line_errors()
def _ingest(
    config: Config = None,
    day: Day = None,
    overrides: Overrides = None,
    force: Force = False,
    forget: Annotated[
        str | None,
        typer.Option(
            metavar="FILE_OR_GLOB",
            help="Withdraw the rows of these log files instead; they are not read again as they"
            " are, unless forced.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    if forget is None:
        _run_stage("ingest", config, day, overrides, force, as_json)
        return
    _check_unused("--forget", {"--force": force})
    from flows.console.upkeep import print_forgotten
    from pipeline.config.settings import load_settings
    from pipeline.runner.nightly import forget_files

    settings = load_settings(config, overrides or ())
    forgotten = forget_files(settings, as_date(day) or settings.today(), forget)
    print_result(forgotten, partial(print_forgotten, forgotten), as_json)


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
            help="Evaluate this bundle in ONNX Runtime, here, instead; nothing is recorded.",
        ),
    ] = None,
    engine: Engine = None,
    as_json: Json = False,
) -> None:
    if bundle is None:
        _run_stage("evaluate", config, day, with_engine(overrides, engine), force, as_json)
        return
    _check_unused("--bundle", {"--force": force, "--engine": engine not in (None, "local")})
    from flows.console.figures import print_metrics
    from pipeline.config.settings import load_settings
    from pipeline.runner.nightly import evaluate_bundle_of

    settings = load_settings(config, overrides or ())
    evaluated = evaluate_bundle_of(settings, as_date(day) or settings.today(), bundle)
    print_result(evaluated, partial(print_metrics, evaluated), as_json)


def _command_on_engine(name: str) -> Callable[..., None]:
    @one_line_errors()
    def command(
        config: Config = None,
        day: Day = None,
        overrides: Overrides = None,
        force: Force = False,
        engine: Engine = None,
        as_json: Json = False,
    ) -> None:
        _run_stage(name, config, day, with_engine(overrides, engine), force, as_json)

    return command


_OTHERS: dict[str, Callable[..., None]] = {
    "ingest": _ingest,
    "prepare": _command_on_engine("prepare"),
    "train": _command_on_engine("train"),
    "evaluate": _evaluate,
    "score": _command_on_engine("score"),
}
for _name, _help in STAGES.items():
    app.command(_name, help=_help)(_OTHERS.get(_name) or _stage_command(_name))


@app.command()
@one_line_errors()
def recommend(
    user_id: Annotated[str, typer.Argument(help="The user, as in the logs.", show_default=False)],
    config: Config = None,
    day: PublishedDay = None,
    explain: Annotated[
        str | None,
        typer.Option(metavar="ITEM", help="Say why this item is in the list, or is not."),
    ] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Show a user's history and current recommendations."""
    if explain is not None:
        _explain(user_id, explain, config, day, overrides, as_json)
        return
    from flows.console.user import find_user, print_user, user_result
    from pipeline.config.settings import load_settings

    found = find_user(load_settings(config, overrides or ()), user_id, as_date(day))
    print_result(user_result(found), partial(print_user, found), as_json)


def _explain(
    user_id: str,
    item_id: str,
    config: Path | None,
    day: datetime | None,
    overrides: list[str] | None,
    as_json: bool,
) -> None:
    from flows.console.explain import print_explained
    from pipeline.config.settings import load_settings
    from pipeline.runner.explain import explain

    settings = load_settings(config, overrides or ())
    found = explain(settings, user_id, item_id, as_date(day))
    print_result(found, partial(print_explained, settings, found), as_json)


_TOOLS = (backfill, tune, related, embeddings, audience, status, report, clean, serve, automations)
for _command in _TOOLS:
    app.command()(_command)
app.command("import")(import_logs)
app.add_typer(models, name="models")

if __name__ == "__main__":
    app()
