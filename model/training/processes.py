"""The processes that train a network: their set-up, and how several train it together by DDP."""

import contextlib
import logging
import signal
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from lightning import LightningModule
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy

from model.cores import thread_count
from model.process_logs import ProcessLogs

MATMUL_PRECISION = "high"
_LOGGERS = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]


@dataclass(frozen=True)
class ProcessGroup:
    """A process's place in a group of processes that somebody else started, each with one device.

    Attributes:
        rank: The process's number, from 0; the first one writes checkpoints.
        size: The number of processes.
        host: Where the first one runs, as the others reach it.
        port: A free port there.
    """

    rank: int
    size: int
    host: str
    port: int


class SpawnedProcesses(DDPStrategy):
    """DDP in spawned processes that only train; Lightning's default runs the command again."""

    def __init__(self, threads: int) -> None:
        # Some biases (a softmax's keys') have no effect and no gradient, which plain DDP rejects.
        super().__init__(start_method="spawn", find_unused_parameters=True)
        self.threads = threads
        self.logs = ProcessLogs()

    def connect(self, model: LightningModule) -> None:
        """First hook in each worker: repeat the global set-up of the driver."""
        torch.set_float32_matmul_precision(MATMUL_PRECISION)
        torch.set_num_threads(thread_count(self.threads, self.num_processes))
        silence_lightning()
        self.logs.connect()
        super().connect(model)

    def on_exception(self, exception: BaseException) -> None:
        """Kill the workers, for which an interrupted run would otherwise wait."""
        if self.launcher is not None:
            self.launcher.kill(signal.SIGKILL)
        super().on_exception(exception)


class JoinedProcesses(DDPStrategy):
    """DDP in processes that are there already, of which this is one."""

    def __init__(self, group: ProcessGroup, threads: int) -> None:
        super().__init__(cluster_environment=_Started(group), find_unused_parameters=True)
        self.threads = threads

    def connect(self, model: LightningModule) -> None:
        """First hook in the training: Lightning has chosen a number of threads before."""
        torch.set_num_threads(self.threads)
        super().connect(model)


class _Started(LightningEnvironment):
    """The environment of a process with one device, as if it were a node of its own."""

    def __init__(self, group: ProcessGroup) -> None:
        super().__init__()
        self._group = group

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return self._group.host

    @property
    def main_port(self) -> int:
        return self._group.port

    def node_rank(self) -> int:
        return self._group.rank

    def local_rank(self) -> int:
        return 0


def lost_contact(error: RuntimeError) -> bool:
    """Whether PyTorch's error means that another process of the group could not be reached."""
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress Lightning's messages on hardware, tips and existing folders."""
    levels = [logger.level for logger in _LOGGERS]
    with warnings.catch_warnings():
        silence_lightning()
        try:
            yield
        finally:
            for logger, level in zip(_LOGGERS, levels, strict=True):
                logger.setLevel(level)


def silence_lightning() -> None:
    """Suppress these messages from now on."""
    for logger in _LOGGERS:
        logger.setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\.")
    # Batches are gathered from arrays in memory; worker processes would only copy them.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
