"""The progress bar of scoring; nothing where there is no terminal to draw it on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)


@contextmanager
def scoring_progress() -> Iterator[Callable[[int, int | None], None]]:
    """Draw users done, rate and time left.

    Yields:
        What `pipeline.score.score` takes as `progress`.
    """
    console = Console()
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("reading", total=None, rate="")

        def progress(done: int, total: int | None) -> None:
            speed = bar.tasks[0].speed
            rate = f"{speed:,.0f} users/s" if speed else ""
            bar.update(task, description="scoring", completed=done, total=total, rate=rate)

        yield progress
