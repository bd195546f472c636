"""Trials on a Ray cluster: the study and the search's folder stay with the driver.

A worker gets the histories once and the settings of each trial, and gives back the weights. Whether
a trial is to be pruned is asked of an actor on the driver's node, which reads the study there.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import optuna
from optuna.trial import TrialState

from pipeline.bundles.bundle import HELD_OUT_WEIGHTS
from pipeline.config.settings import Settings
from pipeline.data.splits import Split
from pipeline.engines.base import Progress, already_made
from pipeline.engines.ray_calls import DriverCall
from pipeline.engines.ray_cluster import connected
from pipeline.engines.ray_engine import opened_ray_engine
from pipeline.errors import FearecError
from pipeline.storage.atomic_files import fsync
from pipeline.tuning.search import Search, as_line, note_failure
from pipeline.tuning.study import EPOCH, load_study
from pipeline.tuning.trial import Judged, Pruning, Run, known_to_training, train_on


@dataclass(frozen=True)
class Begun:
    """A trial on its way to a worker.

    Attributes:
        trial_id: In the study's storage.
        run: Its training; the folder is the driver's.
    """

    trial_id: int
    run: Run

    def __len__(self) -> int:
        return 1


@dataclass(frozen=True)
class Ended:
    """What became of a trial; it was pruned where there is neither a judgement nor an error.

    Attributes:
        begun: The trial.
        judged: Of a trial that was trained to its end.
        weights: Of this one, the content of `held_out.safetensors`.
        error: Why the trial failed.
    """

    begun: Begun
    judged: Judged | None = None
    weights: bytes = b""
    error: str | None = None

    def tell(self, study: optuna.Study) -> None:
        """Write it into the study, and the weights into the trial's folder."""
        trial = optuna.Trial(study, self.begun.trial_id)
        if self.error is not None:
            _fail(trial, self.error)
        elif self.judged is None:
            study.tell(trial.number, state=TrialState.PRUNED)
        else:
            file = self.begun.run.folder / HELD_OUT_WEIGHTS
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(self.weights)
            fsync(file)
            trial.set_user_attr(EPOCH, self.judged.epoch)
            study.tell(trial.number, self.judged.valid_ndcg_at_10)


def run_on_ray(
    search: Search, study: optuna.Study, lacking: int, ended: Callable[[], None]
) -> None:
    """Run the queued trials, as many at a time as there are workers.

    Args:
        search: The search, whose settings name the cluster.
        study: Its study.
        lacking: The number of trials to run.
        ended: Called whenever a trial has ended.

    Raises:
        ConfigError: Ray is not installed, no cluster answers, or it has no room for a worker.
        OSError: a disk is full, here or on a node.
    """
    settings = search.settings.engine

    def begun() -> Iterator[Begun]:
        for _ in range(lacking):
            trial = study.ask()
            try:
                run = search.training(trial, settings.num_cpus)
            except FearecError as error:
                _fail(trial, as_line(error))
                ended()
                continue
            # Optuna has no public name for a trial's id in its storage.
            yield Begun(trial._trial_id, run)

    known = known_to_training(search.settings, search.run_date, search.prepared)
    with connected(settings) as ray:
        reports = DriverCall.of(ray, partial(_Reports, search.out.absolute(), search.settings))
        make_worker = partial(already_made, _Trainer(known, reports))
        with opened_ray_engine(make_worker, settings) as engine:
            count = max(settings.min_workers, min(engine.count, lacking))
            trials = replace(engine, count=count, in_order=False, if_lost=_lost)
            with closing(trials.results(begun(), lambda done: None)) as results:
                for trial in results:
                    trial.tell(study)
                    ended()


def _fail(trial: optuna.Trial, line: str) -> None:
    note_failure(trial, line)
    trial.study.tell(trial.number, state=TrialState.FAIL)


def _lost(begun: Begun, reason: str) -> Ended:
    return Ended(begun, error=reason)


# The rest runs in processes of the cluster.


class _Reports:
    """The study in a search's folder, to which trials report epochs; on the driver's node."""

    def __init__(self, out: Path, settings: Settings) -> None:
        optuna.logging.set_verbosity(optuna.logging.CRITICAL)
        self._study = load_study(out, settings)

    def __call__(self, trial_id: int, epochs: int, epoch: int, ndcg: float) -> bool:
        """Report an epoch of a trial; whether the study prunes it."""
        try:
            Pruning(optuna.Trial(self._study, trial_id), epochs)(epoch, ndcg)
        except optuna.TrialPruned:
            return True
        return False


@dataclass(frozen=True)
class _Trainer:
    """A worker: trains trials.

    Attributes:
        known: The data.
        is_hopeless: See `_Reports`.
    """

    known: Split
    is_hopeless: Callable[[int, int, int, float], bool]

    def __call__(self, begun: Begun, progress: Progress) -> Ended:
        """Train a trial in a temporary folder."""

        def on_epoch(epoch: int, ndcg: float) -> None:
            epochs = begun.run.settings.train.epochs
            if self.is_hopeless(begun.trial_id, epochs, epoch, ndcg):
                raise optuna.TrialPruned

        with TemporaryDirectory(prefix="fearec-") as name:
            run = replace(begun.run, folder=Path(name) / "trial")
            try:
                judged = train_on(self.known, run, on_epoch)
            except optuna.TrialPruned:
                return Ended(begun)
            except (OSError, MemoryError):
                raise  # not the fault of the trial
            except Exception as error:
                line = as_line(error).replace(str(run.folder), str(begun.run.folder))
                return Ended(begun, error=line)
            return Ended(begun, judged, (run.folder / HELD_OUT_WEIGHTS).read_bytes())
