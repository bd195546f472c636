"""Progress bars of scoring and importing, drawn only on a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


@contextmanager
def scoring_progress() -> Iterator[Callable[[int, int | None], None]]:
    """Draw the users done, their rate and the time left.

    Yields:
        The argument `progress` of `pipeline.scoring.score`.
    """
    with _bar(MofNCompleteColumn(), UserRateColumn()) as bar:
        task = bar.add_task("reading", total=None)

        def progress(done: int, total: int | None) -> None:
            bar.update(task, description="scoring", completed=done, total=total)

        yield progress


@contextmanager
def importing_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Draw the share done of reading and then of writing, and the time left.

    Yields:
        The argument `progress` of `pipeline.logs.imports.importer.import_logs`.
    """
    with _bar(TaskProgressColumn()) as bar:
        tasks: dict[str, TaskID] = {}

        def progress(doing: str, done: int, total: int) -> None:
            if doing not in tasks:
                tasks[doing] = bar.add_task(doing)
            bar.update(tasks[doing], completed=done, total=total)

        yield progress


class UserRateColumn(ProgressColumn):
    """Users per second."""

    def render(self, task: Task) -> Text:
        """The column's text for a task."""
        return Text(f"{task.speed:,.0f} users/s" if task.speed else "")


def _bar(*figures: ProgressColumn) -> Progress:
    console = Console()
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        *figures,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
