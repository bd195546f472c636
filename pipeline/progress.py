"""Progress of work that counts something: a bar on a terminal, plain lines elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from model.progress import ProgressLines, draws_bars
from pipeline.terminal import Terminal


@contextmanager
def work_progress(what: str, unit: str = "") -> Iterator[Callable[[int, int | None], None]]:
    """Show how much is done, its rate and the time left.

    Args:
        what: The work's name, such as scoring.
        unit: What is counted, such as users; without one only the share is shown.

    Yields:
        A function to be called with the count so far, and the count at the end or None.
    """
    if not draws_bars():
        with ProgressLines(what, unit) as lines:
            yield lines
        return
    counted = (MofNCompleteColumn(), RateColumn(unit)) if unit else (TaskProgressColumn(),)
    with progress_bar(SpinnerColumn(), *_NAMED, *counted, TimeRemainingColumn()) as bar:
        task = bar.add_task(what, total=None)

        def progress(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total)

        yield progress


_NAMED = (TextColumn("{task.description}"), BarColumn())


class RateColumn(ProgressColumn):
    """A count per second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """The column's text for a task."""
        return Text(f"{task.speed:,.0f} {self.unit}/s" if task.speed else "")


def progress_bar(*columns: ProgressColumn) -> Progress:
    """A bar on the standard error that vanishes at its end; for a terminal only."""
    return Progress(*columns, console=Terminal(stderr=True), transient=True)
