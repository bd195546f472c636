"""Training by several workers of a Ray cluster, which train one network together by DDP.

The first worker's checkpoints come to the folder where a training on this machine has its own, so
that either goes on from the other's.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from model.config import TrainingConfig
from model.errors import FearecError
from model.process_logs import forward_records, handle_record
from model.training.checkpoints import BEST, LAST, keep_whole
from model.training.processes import ProcessGroup, lost_contact
from model.training.task import TrainingTask
from model.training.trainer import Fitted, read_fitted, train_epochs
from pipeline.config.engine_section import EngineSettings
from pipeline.engines.base import WorkerDiedError, already_made
from pipeline.engines.ray_calls import DriverCall
from pipeline.engines.ray_cluster import connected, deferred_sigterm
from pipeline.engines.ray_gang import PeerLostError, RayGang, Seat
from pipeline.engines.ray_place import WorkerLostError
from pipeline.errors import first_line, raised_as
from pipeline.training.driver_desk import DriverDesk, SentFile

_log = logging.getLogger(__name__)


def fit_on_ray(task: TrainingTask, folder: Path, engine: EngineSettings) -> Fitted:
    """Train a network as `model.training.trainer.fit` does, by `engine.train_workers` workers.

    Raises:
        ConfigError: Ray is not installed, no cluster answers, it has no room for the workers, or
            they lack the accelerator.
        DivergenceError: a loss, or the output, is not a finite number.
        FearecError: three workers were lost without an epoch between them.
    """
    training = _training(task.training, engine)
    _log.info("training by %d workers on the Ray cluster", engine.train_workers)
    with (
        connected(engine) as ray,
        raised_as(
            FearecError,
            (WorkerDiedError, WorkerLostError),
            "the training on the Ray cluster failed",
            str(folder),
            remedy="Run the same command again: it goes on from the last whole epoch.",
        ),
    ):
        desk = DriverCall.of(ray, partial(DriverDesk, folder.absolute()))

        def log_records() -> None:
            with deferred_sigterm():
                records = desk()
            for record in records:
                handle_record(record)

        level = logging.getLogger("model").getEffectiveLevel()
        worker = _Trainer(replace(task, training=training), folder, desk, level)
        make_worker = partial(already_made, worker)
        RayGang(ray, make_worker, engine, engine.train_workers, log_records).run(
            partial(_checkpoints, folder)
        )
        log_records()
    return read_fitted(task, folder)


def _training(training: TrainingConfig, engine: EngineSettings) -> TrainingConfig:
    """The settings of each worker, which has cores or a GPU of its own."""
    has = "gpu" if engine.num_gpus else "cpu"
    accelerator = has if training.accelerator == "auto" else training.accelerator
    own = {"devices": 1, "strategy": "auto", "threads": engine.num_cpus}
    return training.model_copy(update={**own, "accelerator": accelerator})


def _checkpoints(folder: Path) -> dict[str, bytes]:
    """What a training goes on from: its checkpoints, or nothing."""
    names = (BEST, LAST) if keep_whole(folder) else ()
    return {name: (folder / name).read_bytes() for name in names}


# The rest runs in processes of the cluster.


@dataclass(frozen=True)
class _Trainer:
    """A worker: trains with the others of its gang.

    Attributes:
        task: What is trained.
        folder: The training's folder on the driver's node.
        desk: See `DriverDesk`.
        level: Of the log records that are sent there.
    """

    task: TrainingTask
    folder: Path
    desk: DriverCall[..., list[logging.LogRecord]]
    level: int

    def __call__(self, seat: Seat, checkpoints: Mapping[str, bytes]) -> None:
        """Train in a temporary folder, from the checkpoints on.

        Raises:
            PeerLostError: another worker is gone.
            Exception: what `train_epochs` raises.
        """
        is_first = seat.rank == 0
        group = ProcessGroup(seat.rank, seat.size, seat.host, seat.port)
        with TemporaryDirectory(prefix="fearec-") as name:
            here = Path(name)

            def send(path: Path) -> None:
                relative = path.relative_to(here).as_posix()
                self.desk(SentFile(seat.attempt, relative, path.read_bytes()))

            for file, content in checkpoints.items():
                (here / file).write_bytes(content)
            if is_first:
                forward_records(self.desk, self.level)
            try:
                train_epochs(
                    self.task,
                    here,
                    progress=is_first,
                    group=group,
                    on_saved=send if is_first else None,
                )
            except FearecError as error:
                parts = (part.replace(name, str(self.folder)) for part in error.args)
                raise type(error)(*parts) from None
            except RuntimeError as error:
                if lost_contact(error):
                    raise PeerLostError(f"it lost another one ({first_line(error)})") from None
                raise
            if is_first:
                for path in here.glob("logs/**/*.*"):
                    send(path)
