"""The engine of the settings: this process, or a Ray cluster."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.config.engine_section import EngineSettings
from pipeline.engines.base import Engine, Part, Result, SameProcess, Worker


@contextmanager
def opened_engine(
    make_worker: Callable[[int], Worker[Part, Result]], settings: EngineSettings
) -> Iterator[Engine[Part, Result]]:
    """Open the engine for as long as it is used.

    Args:
        make_worker: Makes a worker; given 0. It must pickle, and is sent to every node once.
        settings: Where, and with which resources.

    Raises:
        ConfigError: Ray is not installed, or no cluster answers.
    """
    if settings.kind == "local":
        yield SameProcess(make_worker(0))
        return
    from pipeline.engines.ray_engine import opened_ray_engine

    with opened_ray_engine(make_worker, settings) as engine:
        yield engine
