"""The output folder of a search: its trials, plots and best settings, and whose files it holds."""

import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import tomli_w
from optuna import visualization
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from pipeline.config.settings import Settings
from pipeline.errors import ConfigError
from pipeline.storage.atomic_files import replace_text, unfinished_below
from pipeline.storage.locks import exclusive_lock
from pipeline.tuning.search_space import Space, Value
from pipeline.tuning.study import EPOCH, ERROR, STUDY_FILE, original_number

DATA = "data"  # the search's copy of the prepared data
RUNS = "trials"  # one folder of checkpoints per trial
TRIALS_FILE = "trials.parquet"
PLOTS_FILE = "plots.html"
BEST_FILE = "fearec.toml"

_LOCK = ".lock"
_OUTPUTS = {f"{STUDY_FILE}-journal", DATA, RUNS, TRIALS_FILE, PLOTS_FILE, BEST_FILE}
_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
_TRIALS_SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("state", pa.string()),
        ("ndcg_at_10", pa.float64()),  # on validation; of a pruned trial, after its last epoch
        ("best_epoch", pa.int64()),
        ("epochs", pa.int64()),
        ("seconds", pa.float64()),  # of the last attempt
        ("error", pa.string()),
    ]
)


def check_folder(out: Path) -> None:
    """Check that the folder holds only what a search writes, so that it may be replaced.

    Raises:
        ConfigError: the folder holds other files.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError("the output must be a folder", str(out), found="a file")
    names = {entry.name for entry in out.iterdir()} if out.exists() else set()
    names -= {path.name for path in unfinished_below(out)}
    names = {name.removeprefix(".").removesuffix(".tmp") for name in names} - {_LOCK[1:]}
    foreign = sorted(names - _OUTPUTS - {STUDY_FILE} if STUDY_FILE in names else names)
    if foreign:
        raise ConfigError(
            "the output folder holds files that no search wrote",
            str(out),
            found=", ".join(foreign[:3]),
            remedy="Give another folder with --out.",
        )


def clear(out: Path) -> None:
    """Remove an earlier search."""
    # The study last: without it, `check_folder` takes the rest for other files.
    for name in [*_OUTPUTS, STUDY_FILE]:
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        else:
            (out / name).unlink(missing_ok=True)


@contextmanager
def lock_search(out: Path) -> Iterator[None]:
    """Hold the search's lock; files that a killed process had begun to write are removed.

    Raises:
        BusyError: another process holds it.
    """
    with exclusive_lock(out / _LOCK, "another process is at work on this search", out):
        for path in unfinished_below(out):
            path.unlink(missing_ok=True)
        yield


def write_trials(out: Path, trials: Sequence[FrozenTrial], space: Space) -> Path:
    """Write the trials as Parquet: one row per trial, one column per hyper-parameter searched."""
    rows = [
        {
            "number": original_number(trial),
            "state": _STATES[trial.state],
            "ndcg_at_10": trial.value,
            "best_epoch": trial.user_attrs.get(EPOCH),
            "epochs": trial.last_step,
            "seconds": trial.duration.total_seconds() if trial.duration else None,
            "error": trial.user_attrs.get(ERROR),
        }
        for trial in trials
    ]
    table = pa.Table.from_pylist(rows, _TRIALS_SCHEMA)
    values = [parameters_of(trial, space) for trial in trials]
    for name in space.parameters:
        table = table.append_column(name, pa.array([each[name] for each in values]))
    unfinished = out / f".{TRIALS_FILE}"
    pq.write_table(table, unfinished)
    return unfinished.replace(out / TRIALS_FILE)


def parameters_of(trial: FrozenTrial, space: Space) -> dict[str, Value]:
    """The hyper-parameters that a trial was trained with."""
    return space.suggest(FixedTrial(trial.params))


def write_plots(out: Path, study: optuna.Study) -> Path:
    """Write the study's plots as one page that needs neither network nor server."""
    plots = {
        "history": visualization.plot_optimization_history,
        "epochs": visualization.plot_intermediate_values,
        "slice": visualization.plot_slice,
        "parallel-coordinate": visualization.plot_parallel_coordinate,
    }
    if len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) > 1:
        plots["importances"] = visualization.plot_param_importances
    parts: list[str] = []
    with warnings.catch_warnings():
        # Optuna warns of equal importances, which trials of equal NDCG have.
        warnings.simplefilter("ignore", UserWarning)
        for name, plot in plots.items():
            figure: Any = plot(study)
            # Only the first plot includes Plotly's script; the page needs it once.
            parts.append(figure.to_html(full_html=False, include_plotlyjs=not parts, div_id=name))
    head = '<!DOCTYPE html><meta charset="utf-8"><title>fearec tune</title>'
    replace_text(out / PLOTS_FILE, "\n".join([head, *parts]) + "\n")
    return out / PLOTS_FILE


def write_settings(out: Path, settings: Settings, n_trials: int, best: FrozenTrial) -> Path:
    """Write the best trial's settings as a file for ``--config``."""
    # A value of None is a default, and TOML cannot express it.
    given = settings.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    heading = (
        f"# The best of {n_trials} trials by fearec tune: trial {original_number(best)}, "
        f"NDCG@10 {best.value:.4f} on validation.\n"
    )
    replace_text(out / BEST_FILE, heading + tomli_w.dumps(given))
    return out / BEST_FILE
