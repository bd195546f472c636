"""What a search leaves behind: its trials, their plots, and the best settings."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import tomli_w
from optuna import visualization
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from pipeline.config.settings import Settings
from pipeline.storage.atomic_files import replace_text
from pipeline.tuning.search_space import Space, Value
from pipeline.tuning.study import EPOCH, ERROR, original_number

TRIALS_FILE = "trials.parquet"
PLOTS_FILE = "plots.html"
BEST_FILE = "fearec.toml"

_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
_COLUMNS = pa.schema(
    [
        ("number", pa.int64()),
        ("state", pa.string()),
        ("ndcg_at_10", pa.float64()),  # on validation; the last epoch's of a pruned trial
        ("best_epoch", pa.int64()),
        ("epochs", pa.int64()),
        ("seconds", pa.float64()),  # of the last attempt
        ("error", pa.string()),
    ]
)


def write_trials(out: Path, trials: Sequence[FrozenTrial], space: Space) -> Path:
    """One row a trial: how it ended, and a column for each hyper-parameter searched."""
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
    table = pa.Table.from_pylist(rows, _COLUMNS)
    values = [parameters_of(trial, space) for trial in trials]
    for name in space.parameters:
        table = table.append_column(name, pa.array([each[name] for each in values]))
    unfinished = out / f".{TRIALS_FILE}"
    pq.write_table(table, unfinished)
    return unfinished.replace(out / TRIALS_FILE)


def parameters_of(trial: FrozenTrial, space: Space) -> dict[str, Value]:
    """A trial's hyper-parameters, as it was trained with them."""
    return space.suggest(FixedTrial(trial.params))


def write_plots(out: Path, study: optuna.Study) -> Path:
    """The study's plots on one page that needs neither network nor server."""
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
        # Of importances that are equal, as trials of equal figures make them.
        warnings.simplefilter("ignore", UserWarning)
        for name, plot in plots.items():
            figure: Any = plot(study)
            # The first brings Plotly's script with it, for all of them.
            parts.append(figure.to_html(full_html=False, include_plotlyjs=not parts, div_id=name))
    head = '<!DOCTYPE html><meta charset="utf-8"><title>fearec tune</title>'
    replace_text(out / PLOTS_FILE, "\n".join([head, *parts]) + "\n")
    return out / PLOTS_FILE


def write_settings(out: Path, settings: Settings, n_trials: int, best: FrozenTrial) -> Path:
    """The settings as a file for ``--config``: what was given, and the best hyper-parameters."""
    # What is None is so by default; TOML has no word for it.
    given = settings.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    heading = (
        f"# The best of {n_trials} trials by fearec tune: trial {original_number(best)}, "
        f"NDCG@10 {best.value:.4f} on validation.\n"
    )
    replace_text(out / BEST_FILE, heading + tomli_w.dumps(given))
    return out / BEST_FILE
