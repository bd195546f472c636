"""`fearec`: the night and its stages by hand. Nothing heavy is imported before a command runs."""

from collections.abc import Callable
from typing import Annotated

import typer

from flows.options import Config, Day, Force, Overrides, as_date, new_app, one_line_errors

app = new_app(no_args_is_help=True, help="Nightly sequential recommendation.")

STAGES = {
    "ingest": "Bring new log files into the warehouse; bad rows go into quarantine.",
    "prepare": "Make one sequence a user, and the vocabulary of items.",
    "train": "Train the model, starting from the champion's weights.",
    "evaluate": "Measure the model on held-out items, beside a popularity baseline.",
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
    from flows.summary import print_night
    from pipeline.nightly import nightly as run_night
    from pipeline.settings import load_settings

    settings = load_settings(config, overrides or ())
    night = run_night(settings, as_date(day) or settings.today(), force=force)
    print_night(settings, night)


def _stage_command(name: str) -> Callable[..., None]:
    @one_line_errors()
    def command(
        config: Config = None, day: Day = None, overrides: Overrides = None, force: Force = False
    ) -> None:
        from flows.summary import print_stage
        from pipeline.nightly import run_stage
        from pipeline.settings import load_settings

        settings = load_settings(config, overrides or ())
        print_stage(run_stage(settings, as_date(day) or settings.today(), name, force=force))

    return command


for _name, _help in STAGES.items():
    app.command(_name, help=_help)(_stage_command(_name))


@app.command()
@one_line_errors()
def recommend(
    user_id: Annotated[str, typer.Argument(help="The user, as in the logs.", show_default=False)],
    config: Config = None,
    day: Day = None,
    overrides: Overrides = None,
) -> None:
    """A user's history and current recommendations, to look at."""
    from flows.summary import print_user
    from pipeline.settings import load_settings

    print_user(load_settings(config, overrides or ()), user_id, as_date(day))


if __name__ == "__main__":
    app()
