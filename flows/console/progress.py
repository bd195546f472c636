"""Progress bars of an import and of a search; that of scoring is in `pipeline.scoring.progress`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pipeline.scoring.progress import progress_bar


@contextmanager
def import_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Draw the share done of each step of an import, and the time left.

    Yields:
        The `progress` argument of `pipeline.logs.imports.importer.import_logs`: called with a
        step's name, how much of it is done, and how much there is.
    """
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with progress_bar(*columns) as bar:
        tasks: dict[str, TaskID] = {}

        def progress(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bar.add_task(step)
            bar.update(tasks[step], completed=done, total=total)

        yield progress


@contextmanager
def search_progress() -> Iterator[Callable[[int, int, float | None], None]]:
    """Draw the number of trials done, the best NDCG@10 so far, and the time passed.

    Yields:
        The `progress` argument of `pipeline.tuning.tune.tune`: called with the number of trials
        done, the number wanted, and the best NDCG@10, None before the first.
    """
    columns = (
        TextColumn("trials"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
    )
    with progress_bar(*columns) as bar:
        task = bar.add_task("", total=None)

        def progress(done: int, wanted: int, best: float | None) -> None:
            description = "" if best is None else f"best NDCG@10 {best:.4f}"
            bar.update(task, description=description, completed=done, total=wanted)

        yield progress
