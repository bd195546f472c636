"""A search: every combination once, resuming after a kill, several workers, the best settings."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typer.testing import CliRunner

from flows.cli import main as cli
from model.ranking import metrics_at
from model.training.lightning_module import rank_positions
from model.training.task import TrainingTask
from model.training.weights import load_network
from pipeline.config.settings import load_settings
from pipeline.data.held_out import held_out_events
from pipeline.data.prepared import read_histories
from pipeline.data.splits import split_histories
from pipeline.engines.own_process import in_own_process
from pipeline.errors import BusyError, ConfigError, InputError, ResumeError, SearchError
from pipeline.results import Prepared, Trained
from pipeline.tuning import outputs, search
from pipeline.tuning import trial as tune_trial
from pipeline.tuning import tune as tuning
from pipeline.tuning.params_file import read_space
from pipeline.tuning.study import check_resume_key, fill_queue, load_study
from tests.helpers.searches import DAY, GRID, rows, run
from tests.helpers.tiny_night import EVENTS, ITEMS, USERS


def watch(patch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """A list that collects the combinations trained from now on."""
    trained: list[tuple[float, float]] = []
    real = search.train_here

    def watched(run: tune_trial.Run, on_epoch: Any) -> Any:
        config = run.settings.model.config(99)
        trained.append((run.settings.train.learning_rate, config.topk_factor))
        return real(run, on_epoch)

    patch.setattr(search, "train_here", watched)
    return trained


def test_an_exhaustive_search_runs_every_combination_once(
    config: Path, plots: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, bars = watch(monkeypatch), []
    tuned = run(config, progress=lambda *bar: bars.append(bar))
    assert sorted(trained) == sorted(product([0.001, 0.03], [1, 2, 3]))
    found = rows(tuned)
    assert [row["number"] for row in found] == list(range(6))
    assert [(row["learning_rate"], row["topk_factor"]) for row in found] == trained
    assert {row["state"] for row in found} == {"complete"}
    assert {row["epochs"] for row in found} == {2}
    assert (tuned.n_complete, tuned.n_pruned, tuned.n_failed) == (6, 0, 0)
    best = max(found, key=lambda row: (row["ndcg_at_10"], -row["number"]))
    assert tuned.best == best["number"]
    assert tuned.valid_ndcg_at_10 == best["ndcg_at_10"]
    assert tuned.parameters == {name: best[name] for name in ("learning_rate", "topk_factor")}
    assert [bar[:2] for bar in bars] == [(done, 6) for done in range(7)]
    assert bars[-1][2] == tuned.valid_ndcg_at_10
    # Of the checkpoints only the best trial's stay.
    assert [folder.name for folder in (tuned.trials.parent / "trials").iterdir()] == [
        f"{tuned.best:05d}"
    ]
    page = tuned.plots.read_text()
    for name in ("history", "epochs", "slice", "parallel-coordinate", "importances"):
        assert f'id="{name}"' in page
    assert "<script src=" not in page


def test_the_best_settings_are_ready_for_use(config: Path) -> None:
    tuned = run(config, "tune.max_evals=2", "score.top_k=3")
    best, given = load_settings(tuned.settings), load_settings(config)
    assert best.train.learning_rate == tuned.parameters["learning_rate"]
    assert best.model.overrides["topk_factor"] == tuned.parameters["topk_factor"]
    assert best.score.top_k == 3
    assert best.logs == given.logs
    assert best.train.model_copy(update={"learning_rate": 1e-3}) == given.train
    assert {**best.model.overrides, "topk_factor": 1} == {**given.model.overrides, "topk_factor": 1}
    assert best.model.preset == given.model.preset
    assert f"trial {tuned.best}" in tuned.settings.read_text().splitlines()[0]


def test_a_value_of_none_comes_back_as_none(config: Path) -> None:
    (config.parent / "hyper.test").write_text("clip_grad_norm choice [None]\n")
    tuned = run(config)
    assert tuned.parameters == {"clip_grad_norm": None}
    assert load_settings(tuned.settings).train.clip_grad_norm is None


def test_the_search_never_sees_the_test(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, evaluated = [], []
    real_fit, real_evaluate = tune_trial.fit, tuning.evaluate

    def fit(task: TrainingTask, *args: Any, **options: Any) -> Any:
        assert not evaluated
        seen.append(task.histories.items)
        return real_fit(task, *args, **options)

    def evaluate(
        prepared: Prepared,
        weights: Trained,
        network: Any,
        training: Any,
        *args: Any,
        **options: Any,
    ) -> Any:
        evaluated.append((training.learning_rate, network.config(9).topk_factor))
        return real_evaluate(prepared, weights, network, training, *args, **options)

    monkeypatch.setattr(tune_trial, "fit", fit)
    monkeypatch.setattr(tuning, "evaluate", evaluate)
    tuned = run(config, "tune.max_evals=3")
    assert evaluated == [tuple(tuned.parameters.values())]
    assert [len(items) for items in seen] == [USERS * (EVENTS - 1)] * 3
    assert tuned.test.n_users == USERS
    assert set(tuned.test.model) > {"NDCG@5", "NDCG@10"}


def test_the_metrics_are_those_of_the_best_weights(config: Path) -> None:
    tuned = run(config, "tune.max_evals=2")
    settings, out = load_settings(tuned.settings), tuned.trials.parent
    histories = read_histories(out / "data")
    values: dict[str, Any] = dict.fromkeys(Prepared.__dataclass_fields__, 0)
    prepared = Prepared(**{**values, "folder": out / "data"})
    held_out = held_out_events(settings, DAY)
    split = split_histories(histories, held_out, prepared)
    weights = out / "trials" / f"{tuned.best:05d}" / "held_out.safetensors"
    network = load_network(settings.model.config(ITEMS + 1), weights)
    with torch.inference_mode():
        valid = rank_positions(network, histories, split.valid, mask_seen=True)
        test = rank_positions(network, histories, split.test_from, mask_seen=True)
    assert metrics_at(valid, (10,))["NDCG@10"] == pytest.approx(tuned.valid_ndcg_at_10)
    assert metrics_at(test, (10,))["NDCG@10"] == pytest.approx(tuned.test.model["NDCG@10"])


KILL = """
import os, signal, sys
from datetime import date
from pathlib import Path
from pipeline.tuning import trial as tune_trial
from pipeline.config.settings import load_settings
from pipeline.tuning.tune import tune

report = tune_trial.Pruning.__call__

def killed(self, epoch, ndcg):
    report(self, epoch, ndcg)
    if (self.trial.number, epoch) == (2, 2):
        os.kill(os.getpid(), signal.SIGKILL)

tune_trial.Pruning.__call__ = killed
tune(load_settings(Path(sys.argv[1]), sys.argv[2:]), date(2026, 7, 1))
"""


def test_a_killed_search_resumes_where_it_was(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    three = ("train.epochs=3",)
    (config.parent / "hyper.test").write_text(GRID.replace("[1,2,3]", "[1,2]"))
    command = [sys.executable, "-c", KILL, str(config), *three]
    env = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    done = subprocess.run(command, env=env, check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    out = config.parent / "tune"
    assert (out / "trials/00002/last.ckpt").exists()
    begun = out / ".plots.html.0123456789abcdef.tmp"  # as if killed while it was written
    begun.write_text("<")

    trained, epochs = watch(monkeypatch), []
    report = tune_trial.Pruning.__call__
    monkeypatch.setattr(
        tune_trial.Pruning,
        "__call__",
        lambda self, epoch, ndcg: (epochs.append(epoch), report(self, epoch, ndcg))[1],
    )
    tuned = run(config, *three)
    assert not begun.exists()
    # Two were finished; the third goes on from its last checkpoint, after the first epoch.
    assert len(trained) == 2
    assert sorted(epochs) == [1, 2, 2, 3, 3]
    assert sorted((row["learning_rate"], row["topk_factor"]) for row in rows(tuned)) == sorted(
        product([0.001, 0.03], [1, 2])
    )
    assert [row["number"] for row in rows(tuned)] == list(range(4))
    whole = run(config, *three, f"tune.out={config.parent}/whole")
    assert [row["ndcg_at_10"] for row in rows(whole)] == [row["ndcg_at_10"] for row in rows(tuned)]
    assert replace(tuned, trials=whole.trials, plots=whole.plots, settings=whole.settings) == whole


def test_a_finished_search_trains_nothing_and_can_be_extended(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = run(config, "tune.max_evals=2")
    trained = watch(monkeypatch)
    assert run(config, "tune.max_evals=2") == two
    assert trained == []
    assert len(rows(run(config, "tune.max_evals=5"))) == 5
    assert len(trained) == 3


def test_a_changed_search_is_not_resumed(config: Path, tmp_path: Path, logs: Path) -> None:
    one = "tune.max_evals=1"
    run(config, one)
    other = tmp_path / "other"
    other.mkdir()
    pq.write_table(pq.read_table(logs / "dt=2026-06-30/a.parquet").slice(8), other / "b.parquet")
    space = tmp_path / "space"
    space.write_text(GRID.replace("[1,2,3]", "[1,2]"))
    changes = {
        "train.weight_decay": ["train.weight_decay=0.1"],
        "model.tau": ["model.tau=0.5"],
        "evaluate.mask_seen": ["evaluate.mask_seen=false"],
        "evaluate.split": ["evaluate.split=time", "evaluate.test_days=1", "evaluate.valid_days=1"],
        "tune.algo": ["tune.algo=random"],
        "the params file's topk_factor": [f"tune.params_file={space}"],
        "the data": [f"logs.path={other}", f"warehouse={tmp_path}/another"],
    }
    for named, changed in changes.items():
        with pytest.raises(ResumeError, match=f"{named} is not what it was; expected"):
            run(config, one, *changed)
    # Settings that no trial depends on may change.
    same = ["train.refit=false", "score.top_k=7", "train.eval_batch_size=9", "train.threads=1"]
    assert run(config, one, *same).n_complete == 1
    assert run(config, one, "model.tau=0.5", overwrite=True).n_complete == 1


def test_the_resume_key_of_earlier_versions_is_compared(tmp_path: Path) -> None:
    study = optuna.create_study()
    study.set_user_attr("identity", {"tune.algo": "tpe"})
    check_resume_key(study, tmp_path, {"tune.algo": "tpe"}, DAY)
    with pytest.raises(ResumeError, match=r"tune.algo is not what it was; expected tpe"):
        check_resume_key(study, tmp_path, {"tune.algo": "random"}, DAY)
    more = {"tune.algo": "tpe", "train.eval_batch_size": 512, "train.accelerator": "auto"}
    study.set_user_attr("identity", more)
    check_resume_key(study, tmp_path, {"tune.algo": "tpe"}, DAY)


def test_the_run_date_with_which_a_search_was_begun_is_named(tmp_path: Path) -> None:
    study = optuna.create_study()
    check_resume_key(study, tmp_path, {"the data": "a"}, DAY)
    tomorrow = DAY + timedelta(days=1)
    check_resume_key(study, tmp_path, {"the data": "a"}, tomorrow)
    with pytest.raises(ResumeError, match=f"Go on with --date {DAY}, with which it was begun"):
        check_resume_key(study, tmp_path, {"the data": "b"}, tomorrow)


def test_a_hopeless_trial_is_pruned(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (config.parent / "hyper.test").write_text(
        "seed choice [1,2,3,4,5,6]\nlearning_rate choice [0.03]\n"
    )
    real = search.train_here
    order: list[int] = []

    def worse_and_worse(run: tune_trial.Run, on_epoch: Any) -> Any:
        order.append(run.settings.train.seed)
        if len(order) == 1:  # the best, whose weights are needed
            return real(run, on_epoch)
        for epoch in range(1, 5):
            on_epoch(epoch, 1e-3 / len(order))
        return tune_trial.Judged(4, 1e-3 / len(order))

    monkeypatch.setattr(search, "train_here", worse_and_worse)
    settings = ("train.epochs=4", "train.stopping_step=2")
    tuned = run(config, *settings)
    # Five are needed before any can be worse than their median; and not before stopping_step.
    assert [row["state"] for row in rows(tuned)] == ["complete"] * 5 + ["pruned"]
    assert [row["epochs"] for row in rows(tuned)][5] == 2
    assert tuned.n_pruned == 1
    order.clear()
    unpruned = run(config, *settings, "tune.prune=false", f"tune.out={config.parent}/all")
    assert unpruned.n_complete == 6


def test_a_failed_trial_is_recorded_and_the_search_goes_on(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = search.train_here
    (config.parent / "hyper.test").write_text("topk_factor choice [1,2]\n")

    def failing(run: tune_trial.Run, on_epoch: Any) -> Any:
        if run.settings.model.config(9).topk_factor == 2:
            raise RuntimeError("DefaultCPUAllocator:\ncan't allocate memory")
        return real(run, on_epoch)

    monkeypatch.setattr(search, "train_here", failing)
    tuned = run(config)
    assert (tuned.n_complete, tuned.n_failed) == (1, 1)
    (failed,) = (row for row in rows(tuned) if row["state"] == "failed")
    assert failed["topk_factor"] == 2
    assert failed["error"] == "RuntimeError: DefaultCPUAllocator: can't allocate memory"
    assert failed["ndcg_at_10"] is None
    monkeypatch.setattr(search, "train_here", real)
    assert run(config) == tuned  # failed is finished


def test_a_search_without_any_completed_trial_is_an_error(config: Path) -> None:
    # Weights that are not numbers after the first step.
    (config.parent / "hyper.test").write_text("learning_rate choice [1e38]\n")
    with pytest.raises(SearchError, match=r"no trial was completed.*diverged") as error:
        run(config)
    assert error.value.exit_code == 1


def test_a_full_disk_stops_the_search_and_not_the_trial(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = search.train_here, []
    (config.parent / "hyper.test").write_text("topk_factor choice [1,2,3]\n")

    def full(run: tune_trial.Run, on_epoch: Any) -> Any:
        calls.append(run.folder.name)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real(run, on_epoch)

    monkeypatch.setattr(search, "train_here", full)
    with pytest.raises(search.FearecError, match=r"tune: the disk is full"):
        run(config)
    tuned = run(config)
    assert tuned.n_complete == 3
    assert sorted(calls) == ["00000", "00001", "00001", "00002"]


def test_several_workers_report_a_full_disk_too(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(search, "train_apart", full)
    with pytest.raises(search.FearecError, match=r"tune: the disk is full"):
        run(config, "tune.workers=2", "tune.max_evals=2")


@pytest.mark.parametrize("algo", ["random", "tpe"])
def test_a_sampled_search_has_as_many_trials_as_asked_for(config: Path, algo: str) -> None:
    (config.parent / "hyper.test").write_text(
        "learning_rate loguniform -8,-3\nhidden_dropout_prob quniform 0.1,0.5,0.1\n"
    )
    settings = (f"tune.algo={algo}", "train.epochs=1")
    first = rows(run(config, *settings, "tune.max_evals=2"))
    more = rows(run(config, *settings, "tune.max_evals=4"))
    assert more[:2] == first
    rates = {row["learning_rate"] for row in more}
    assert len(rates) == 4
    assert all(np.exp(-8) <= rate <= np.exp(-3) for rate in rates)
    assert {row["hidden_dropout_prob"] for row in more} <= {0.1, 0.2, 0.3, 0.4, 0.5}
    if algo == "random":
        at_once = run(config, *settings, "tune.max_evals=4", f"tune.out={config.parent}/at-once")
        assert {row["learning_rate"] for row in rows(at_once)} == rates


def test_a_random_search_of_few_combinations_repeats_none(config: Path) -> None:
    settings = load_settings(config, ["tune.algo=random"])
    space = read_space(settings.tune.params_file, settings)
    study = optuna.create_study()
    assert fill_queue(study, space, settings, 6) == 6
    queued = [tuple(trial.system_attrs["fixed_params"].values()) for trial in study.trials]
    assert sorted(queued) == sorted(product([0.001, 0.03], [1, 2, 3]))


def test_no_two_workers_take_the_same_trial(config: Path) -> None:
    out = config.parent / "tune"
    out.mkdir()
    study = load_study(out, load_settings(config))
    for _ in range(60):
        study.enqueue_trial({})
    with ThreadPoolExecutor(6) as workers:
        taken = list(workers.map(lambda _: study.ask().number, range(60)))
    assert sorted(taken) == list(range(60))


def test_a_trial_in_a_process_of_its_own_is_that_of_one_here(config: Path) -> None:
    (config.parent / "hyper.test").write_text("learning_rate choice [0.03]\n")
    two = run(config, "tune.workers=2")
    one = run(config, f"tune.out={config.parent}/one")
    assert [(row["ndcg_at_10"], row["epochs"]) for row in rows(two)] == [
        (row["ndcg_at_10"], row["epochs"]) for row in rows(one)
    ]
    assert two.n_complete == 1


@pytest.mark.slow
def test_two_workers_share_the_search(config: Path) -> None:
    (config.parent / "hyper.test").write_text("learning_rate choice [0.03,1e38]\n")
    two = run(config, "tune.workers=2")
    assert two.n_complete == 1
    (failed,) = (row for row in rows(two) if row["state"] == "failed")
    assert failed["learning_rate"] == 1e38
    assert "diverged" in failed["error"]
    one = run(config, f"tune.out={config.parent}/one")
    assert [row["ndcg_at_10"] for row in rows(two)] == [row["ndcg_at_10"] for row in rows(one)]
    # Reported from the processes; the diverging trial ended as soon as it diverged.
    assert {row["state"]: row["epochs"] for row in rows(two)} == {"complete": 2, "failed": 1}


@pytest.mark.parametrize("told", [False, True])
def test_a_worker_that_is_killed_fails_its_trial_alone(
    told: bool, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the system, or told by SIGTERM while it trains, of which Lightning makes a SystemExit."""

    def end(*_: Any) -> None:
        raise SIGTERMException

    monkeypatch.setattr(tune_trial, "train_here", end)

    def apart(run: tune_trial.Run, out: Path, trial: optuna.Trial) -> tune_trial.Judged:
        if run.settings.train.learning_rate == 0.001:
            if told:
                return tune_trial._train_reporting(run, out, trial._trial_id)
            raise BrokenProcessPool("terminated abruptly")
        return search.train_here(run, lambda epoch, ndcg: None)

    monkeypatch.setattr(search, "train_apart", apart)
    (config.parent / "hyper.test").write_text("learning_rate choice [0.001,0.03]\n")
    # One after the other: two threads cannot train in one process.
    monkeypatch.setattr(search.optuna.Study, "optimize", one_by_one(optuna.Study.optimize))
    tuned = run(config, "tune.workers=2")
    assert (tuned.n_complete, tuned.n_failed) == (1, 1)


def one_by_one(optimize: Any) -> Any:
    return lambda self, *args, n_jobs, **options: optimize(self, *args, n_jobs=1, **options)


@pytest.mark.parametrize("group", [False, True])
def test_an_interrupt_ends_several_workers_and_no_trial_counts_as_failed(
    group: bool, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of SIGTERM to a whole group, the trials' processes may hear before the search does."""
    both, over = threading.Barrier(2), threading.Event()

    def slow(run: tune_trial.Run, out: Path, trial: optuna.Trial) -> Any:
        both.wait(300)
        return in_own_process(time.sleep, 600)

    def interrupt() -> None:
        while len(multiprocessing.active_children()) < 2:
            if over.wait(0.05):
                return
        if group:
            for process in multiprocessing.active_children():
                process.terminate()
            time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(search, "train_apart", slow)
    monkeypatch.setattr(search, "_MOMENT", 30)
    threading.Thread(target=interrupt, daemon=True).start()
    begun = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            run(config, "tune.workers=2")
    finally:
        over.set()
    assert time.monotonic() - begun < 300
    assert not multiprocessing.active_children()
    trials = load_study(config.parent / "tune", load_settings(config)).get_trials()
    assert not [trial for trial in trials if "error" in trial.user_attrs]
    monkeypatch.undo()
    monkeypatch.setattr("optuna.Study.optimize", one_by_one(optuna.Study.optimize))
    monkeypatch.setattr(
        search, "train_apart", lambda run, out, trial: tune_trial.train_here(run, lambda *_: None)
    )
    assert run(config, "tune.workers=2").n_complete == 6


PARENT = """
import os, signal, sys, threading, time
from pathlib import Path
from pipeline.engines.own_process import in_own_process

pid = Path(sys.argv[1])

def child():
    pid.write_text(str(os.getpid()))
    time.sleep(600)

if __name__ == "__main__":
    threading.Thread(target=in_own_process, args=(child,), daemon=True).start()
    while not (pid.exists() and pid.read_text()):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_no_worker_outlives_a_killed_search(tmp_path: Path) -> None:
    script, pid = tmp_path / "parent.py", tmp_path / "pid"
    script.write_text(PARENT)
    env = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    done = subprocess.run([sys.executable, str(script), str(pid)], env=env, check=False)
    assert done.returncode == -signal.SIGKILL
    state = Path(f"/proc/{pid.read_text()}/stat")
    for _ in range(200):
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    os.kill(int(pid.read_text()), signal.SIGKILL)
    pytest.fail("the worker goes on")


def test_a_running_search_is_locked(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def again(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(search, "train_here", again)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    monkeypatch.undo()
    with (
        outputs.lock_search(config.parent / "tune"),
        pytest.raises(BusyError, match="another process is at work on this search"),
    ):
        run(config)
    # And what was interrupted is run.
    assert run(config, "tune.max_evals=1").n_complete == 1


def test_a_folder_with_other_files_is_an_error(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "tune"
    out.mkdir()
    (out / "fearec.toml").write_text("# mine")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match=r"no search wrote; found fearec.toml"):
            run(config, overwrite=overwrite)
    assert (out / "fearec.toml").read_text() == "# mine"
    (out / "fearec.toml").unlink()
    run(config, "tune.max_evals=1")
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"found notes.txt"):
        run(config, "tune.max_evals=1", overwrite=True)


def test_a_broken_study_is_a_one_line_error(config: Path, tmp_path: Path) -> None:
    run(config, "tune.max_evals=1")
    (tmp_path / "tune/study.db").write_bytes(b"not a database" * 100)
    with pytest.raises(search.FearecError, match=r"study.db: the study cannot be read") as error:
        run(config, "tune.max_evals=1")
    assert "\n" not in str(error.value)


def test_continuous_spaces_are_not_searched_exhaustively(config: Path) -> None:
    (config.parent / "hyper.test").write_text("tau choice [1]\nlearning_rate uniform 0.1,0.2\n")
    with pytest.raises(ConfigError, match=r"hyper.test:2: too many combinations.*--algo random"):
        run(config)


def test_too_short_histories_are_an_error_before_any_trial(config: Path, tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.mkdir()
    noon = datetime(2026, 6, 1, tzinfo=UTC)
    times = [noon, noon + timedelta(hours=1)] * 20
    table = {"user_id": np.arange(40) // 2, "item_id": np.arange(40) % 15, "timestamp": times}
    pq.write_table(pa.table(table), short / "a.parquet")
    with pytest.raises(InputError, match="nothing to train on"):
        run(config, f"logs.path={short}")


def test_the_command_prints_its_trials(config: Path, tmp_path: Path) -> None:
    space = tmp_path / "other.test"
    space.write_text("topk_factor choice [1,2]\nlearning_rate choice [0.001,1e38]\n")
    out = tmp_path / "else where? {x} 50%25 #é"
    flags = ["--params-file", str(space), "--max-evals", "4", "--algo", "random", "--workers", "1"]
    arguments = ["tune", "--config", str(config), "--date", str(DAY), "--out", str(out), *flags]
    done = CliRunner().invoke(cli.app, arguments, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert done.stdout.count("complete") == 2 + 1
    assert done.stdout.count("diverged") == 2
    assert "NDCG@10" in done.stdout
    assert f"settings: {out}/fearec.toml" in done.stdout
    assert "protocol: " in done.stdout
    done = CliRunner().invoke(cli.app, [*arguments, "--json"])
    tuned = json.loads(done.stdout)
    assert (done.exit_code, tuned["n_complete"], tuned["n_failed"]) == (0, 2, 2)
    assert tuned["settings"] == f"{out}/fearec.toml"
    space.write_text("topk_factr choice [1,2]\n")
    done = CliRunner().invoke(cli.app, arguments)
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert f"{space}:1: unknown hyper-parameter" in done.stderr


def test_the_command_replaces_none_of_its_settings(config: Path, tmp_path: Path) -> None:
    given = config.rename(tmp_path / "fearec.toml")
    before = given.read_text()
    arguments = ["tune", "--config", str(given), "--out", str(tmp_path), "--overwrite"]
    done = CliRunner().invoke(cli.app, arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "tune.out: the output would replace an input" in done.stderr
    assert given.read_text() == before


def test_the_search_lies_outside_of_the_logs(config: Path) -> None:
    with pytest.raises(ConfigError, match=r"tune\.out: it lies in .*, which would then include it"):
        run(config, f"tune.out={load_settings(config).logs.path}/search")


@pytest.mark.slow
def test_the_flow_does_the_same(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(config.parent / "prefect"))
    monkeypatch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    from prefect.artifacts import Artifact
    from prefect.testing.utilities import prefect_test_harness

    from flows.scheduled.parameters import TuneParameters
    from flows.scheduled.tune import tune as flow

    def parameters(*overrides: str) -> TuneParameters:
        return TuneParameters(config=str(config), run_date=DAY, overrides=overrides)

    with prefect_test_harness(server_startup_timeout=120):
        two = ["tune.max_evals=2"]
        state = flow(parameters(*two), return_state=True)
        assert state.is_completed()
        assert run(config, *two) == state.result()
        artifact = Artifact.get("tune")
        assert artifact is not None
        assert "on validation" in str(artifact.data)
        bad = flow(parameters("tune.params_file=nowhere"), return_state=True)
        assert bad.is_failed()
        assert "no such params file" in str(bad.message)
