"""The progress bar of scoring."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from pipeline.terminal import Terminal


@contextmanager
def scoring_progress() -> Iterator[Callable[[int, int | None], None]]:
    """Draw the users done, their rate and the time left.

    Yields:
        The argument `progress` of `pipeline.scoring.score`.
    """
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        UserRateColumn(),
        TimeRemainingColumn(),
    )
    with progress_bar(*columns) as bar:
        task = bar.add_task("reading", total=None)

        def progress(done: int, total: int | None) -> None:
            bar.update(task, description="scoring", completed=done, total=total)

        yield progress


class UserRateColumn(ProgressColumn):
    """Users per second."""

    def render(self, task: Task) -> Text:
        """The column's text for a task."""
        return Text(f"{task.speed:,.0f} users/s" if task.speed else "")


def progress_bar(*columns: ProgressColumn) -> Progress:
    """A bar on the standard error that vanishes at its end; not drawn where that is no terminal."""
    console = Terminal(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
