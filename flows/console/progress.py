"""Progress of an import and of a search; that of other work is in `pipeline.progress`."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

from model.progress import ProgressLines, draws_bars
from pipeline.progress import progress_bar, work_progress


@contextmanager
def import_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show the share done of each step of an import, and the time left.

    Yields:
        The `progress` argument of `pipeline.logs.imports.importer.import_logs`: called with a
        step's name, how much of it is done, and how much there is.
    """
    with ExitStack() as step_shown:
        shown: dict[str, Callable[[int, int | None], None]] = {}

        def progress(step: str, done: int, total: int) -> None:
            if step not in shown:
                step_shown.close()  # the step before
                shown[step] = step_shown.enter_context(work_progress(step))
            shown[step](done, total)

        yield progress


@contextmanager
def search_progress() -> Iterator[Callable[[int, int, float | None], None]]:
    """Show the number of trials done, the best NDCG@10 so far, and the time passed.

    Yields:
        The `progress` argument of `pipeline.tuning.tune.tune`: called with the number of trials
        done, the number wanted, and the best NDCG@10, None before the first.
    """

    def best_so_far(best: float | None) -> str:
        return "" if best is None else f"best NDCG@10 {best:.4f}"

    if not draws_bars():
        with ProgressLines("search", "trials") as lines:
            yield lambda done, wanted, best: lines(done, wanted, lambda: best_so_far(best))
        return
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
            bar.update(task, description=best_so_far(best), completed=done, total=wanted)

        yield progress
