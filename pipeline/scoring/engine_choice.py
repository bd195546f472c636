"""The engine of a scoring run: this process, a process per device, or a Ray cluster."""

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from model.cores import thread_count
from pipeline.bundles.bundle import Bundle
from pipeline.bundles.copies import CopiedGraph
from pipeline.bundles.sessions import NAMES, count_devices
from pipeline.config.engine_section import EngineSettings
from pipeline.config.score_section import ScoreSettings
from pipeline.engines.base import Engine, SameProcess
from pipeline.engines.process_pool import ProcessPool
from pipeline.scoring.encoded_part import EncodedPart, RankedPart
from pipeline.scoring.part_worker import PartWorker, WorkerOpener
from pipeline.scoring.user_histories import UserHistories

ScoringEngine = Engine[UserHistories, RankedPart | EncodedPart]


def scoring_engine(
    opener: WorkerOpener, bundle: Bundle, settings: ScoreSettings, engine: EngineSettings
) -> tuple[AbstractContextManager[ScoringEngine], str]:
    """The engine of the settings, and ONNX Runtime's name of its provider.

    Args:
        opener: Opens the workers.
        bundle: The model.
        settings: What to recommend, with which provider, devices and threads.
        engine: Where.

    Returns:
        The engine, for a ``with`` statement, and the provider.

    Raises:
        ConfigError: the provider does not work here.
        BundleError: the graph cannot be loaded.
    """
    if engine.kind == "ray":
        return _on_ray(opener, bundle, settings, engine)
    # Also for several processes, to raise errors before anything else.
    worker = opener(bundle, settings, device_id=0, encodes=False)
    provider = worker.scorer.provider
    devices = count_devices(settings.devices, provider)
    if devices == 1:
        return nullcontext(SameProcess(worker)), provider
    del worker  # frees device 0 for one of the processes
    shared = settings.model_copy(update={"threads": thread_count(settings.threads, devices)})
    return nullcontext(ProcessPool(partial(_opened, opener, bundle, shared), devices)), provider


def _on_ray(
    opener: WorkerOpener, bundle: Bundle, settings: ScoreSettings, engine: EngineSettings
) -> tuple[AbstractContextManager[ScoringEngine], str]:
    from pipeline.engines.ray_engine import opened_ray_engine

    chosen: dict[str, Any] = {}
    if settings.provider == "auto":  # the same on every node, or rows would depend on it
        chosen["provider"] = "cuda" if engine.num_gpus else "cpu"
    if settings.threads == "auto":
        chosen["threads"] = engine.num_cpus
    settings = settings.model_copy(update=chosen)
    copied = CopiedGraph.of(bundle, "encoder" if settings.candidates else settings.precision)
    make_worker = partial(_opened_copy, opener, copied, settings)
    return opened_ray_engine(make_worker, engine), NAMES[settings.provider]


def _opened(
    opener: WorkerOpener, bundle: Bundle, settings: ScoreSettings, index: int
) -> PartWorker:
    return opener(bundle, settings, device_id=index, encodes=True)


def _opened_copy(
    opener: WorkerOpener, copied: CopiedGraph, settings: ScoreSettings, index: int
) -> PartWorker:
    with copied.unpacked() as bundle:
        return _opened(opener, bundle, settings, index)
