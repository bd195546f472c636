"""The connection to a Ray cluster, and the room on it.

Ray is imported only when a connection is made.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from types import FrameType
from typing import Any

from pipeline.config.engine_section import EngineSettings
from pipeline.errors import ConfigError, first_line

_SECONDS = 10  # for the head to answer


@contextmanager
def connected(settings: EngineSettings) -> Iterator[Any]:
    """Connect to the cluster for as long as the block lasts, and yield the module `ray`.

    What Ray prints goes to the standard error meanwhile. A process that is connected already stays
    so, to whichever cluster it is.

    Raises:
        ConfigError: Ray is not installed, or no cluster answers.
    """
    ray = _imported()
    with redirect_stdout(sys.stderr):
        if ray.is_initialized():
            yield ray
            return
        _connect(ray, settings)
        try:
            yield ray
        finally:
            ray.shutdown()


def room(ray: Any, settings: EngineSettings) -> int:
    """The number of workers for whom the cluster has cores and GPUs now."""
    workers = 0
    for node in ray.nodes():
        if node["Alive"]:
            cores, gpus = (int(node["Resources"].get(name, 0)) for name in ("CPU", "GPU"))
            fitting = cores // settings.num_cpus
            workers += min(fitting, gpus // settings.num_gpus) if settings.num_gpus else fitting
    return workers


@contextmanager
def deferred_sigterm() -> Iterator[None]:
    """Let SIGTERM wait for the end of a call of Ray, which loses what the signal's handler raises.

    Ctrl-C comes through, and a SIGTERM without a handler ends the process at once.
    """
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    received: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGTERM, lambda *signalled: received.append(signalled))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
    if received:
        before(*received[0])


def _imported() -> Any:
    try:
        import ray
    except ModuleNotFoundError:
        raise ConfigError(
            "Ray is not installed",
            "engine.kind",
            expected="the package ray",
            remedy="Run pip install 'fearec[ray]', here and on every node of the cluster.",
        ) from None
    return ray


def _connect(ray: Any, settings: EngineSettings) -> None:
    address = settings.address
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", address)
    try:
        if address != "auto":
            # Ray itself would try for minutes.
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), _SECONDS).close()
        with _kept_sigterm():
            ray.init(address, log_to_driver=False, configure_logging=False)
    except (OSError, RuntimeError, ValueError) as error:
        why = error.strerror if isinstance(error, socket.gaierror) else first_line(error)
        raise ConfigError(
            "no Ray cluster answers",
            "engine.address",
            expected="the head of a cluster that this machine is a node of",
            found=f"{address}: {why}",
            remedy="Start one by ray start --head, or join one by ray start --address HOST:PORT.",
        ) from error


@contextmanager
def _kept_sigterm() -> Iterator[None]:
    """Take back Ray's handler of SIGTERM, which ends Python without a word."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
