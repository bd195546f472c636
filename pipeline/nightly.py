"""A night: every stage in order; what is done already is not done again.

A stage is done when it is recorded for the run date with the same settings and inputs, and what
it made is still there. Each stage can be repeated, so a night killed at any moment is mended by
running it again.
"""

import hashlib
import inspect
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial
from itertools import takewhile
from operator import attrgetter
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.bundle import Bundle
from pipeline.champion import set_champion
from pipeline.errors import ConfigError
from pipeline.logs import list_log_files
from pipeline.progress import scoring_progress
from pipeline.publish import RECOMMENDATIONS, Published, publish
from pipeline.records import Record, fingerprint, night_folder, read_record, write_record
from pipeline.runs import record_run
from pipeline.score import ScoreResult, score
from pipeline.settings import Settings
from pipeline.warehouse import open_table

if TYPE_CHECKING:
    from pipeline.evaluate import Evaluated
    from pipeline.export import Exported
    from pipeline.ingest import IngestResult
    from pipeline.prepare import Prepared


def score_everyone(
    settings: Settings, run_date: date, prepared: "Prepared", exported: "Exported"
) -> ScoreResult:
    """The score stage: every prepared history, by the night's bundle.

    Raises:
        FearecError: as `pipeline.score.score`.
    """
    from pipeline.prepare import SEQUENCES_FILE

    run = partial(
        score,
        [str(prepared.folder / SEQUENCES_FILE)],
        Bundle.load(exported.bundle),
        night_folder(settings, run_date) / "parts",
        settings.score,
        logs=settings.logs,
        run_date=run_date,
        time_zone=settings.time_zone,
    )
    with scoring_progress() as progress:
        try:
            return run(resume=True, progress=progress)
        except ConfigError:  # the parts there are of another model, input or settings
            return run(overwrite=True, progress=progress)


def publish_champion(
    settings: Settings, run_date: date, exported: "Exported", scored: ScoreResult
) -> Published:
    """The publish stage: the recommendations, and then the model that made them as champion.

    Raises:
        PublishError: as `pipeline.publish.publish`.
        BundleError: `champion.json` cannot be read.
    """
    published = publish(settings, run_date, scored)
    set_champion(settings, run_date, exported.bundle, exported.model_version)
    return published


def _nothing(settings: Settings) -> None:
    return None


def _log_stamps(settings: Settings) -> dict[str, str]:
    return {file.path: file.stamp for file in list_log_files(settings.logs.path)}


def _item_lists(settings: Settings) -> list[str]:
    lists = (settings.score.allow, settings.score.deny)
    return [
        hashlib.sha256(path.read_bytes()).hexdigest() for path in lists if path and path.exists()
    ]


def _always(settings: Settings, result: Any) -> bool:
    return True


def _interactions_exist(settings: Settings, ingested: "IngestResult") -> bool:
    table = open_table(settings, "interactions")
    return table is not None and table.version() >= ingested.interactions_version


def _recommendations_exist(settings: Settings, published: Published) -> bool:
    table = open_table(settings, RECOMMENDATIONS)
    return table is not None and table.version() >= published.version


@dataclass(frozen=True)
class Stage:
    """One stage and what decides whether it has to be done again.

    Attributes:
        name: As in `fearec NAME`.
        function: Where it is, so that it is only imported when it runs: `module:name`. Called
            with the settings, the run date and the results of `needs`.
        needs: The stages whose results it takes, in this order.
        settings: The settings its result depends on.
        watches: What else that is: files outside of the warehouse.
        identity: What of its record the stages that need it depend on.
        intact: Whether the tables it wrote are still there.
        scratch: Its folder of intermediate files, which `force` clears.
    """

    name: str
    function: str
    needs: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    watches: Callable[[Settings], Any] = _nothing
    identity: Callable[[Record[Any]], Any] = attrgetter("fingerprint", "result")
    intact: Callable[[Settings, Any], bool] = _always
    scratch: str = ""


STAGES = (
    Stage(
        "ingest",
        "pipeline.ingest:ingest",
        settings=("warehouse", "time_zone", "logs"),
        watches=_log_stamps,
        identity=attrgetter("result.interactions_version"),
        intact=_interactions_exist,
    ),
    Stage(
        "prepare",
        "pipeline.prepare:prepare",
        needs=("ingest",),
        settings=("warehouse", "time_zone"),
    ),
    Stage(
        "train",
        "pipeline.train:train",
        needs=("prepare",),
        settings=("model", "train", "evaluate.mask_seen"),
        scratch="train",
    ),
    Stage(
        "evaluate",
        "pipeline.evaluate:evaluate",
        needs=("prepare", "train"),
        settings=("evaluate",),
    ),
    Stage(
        "export",
        "pipeline.export:export",
        needs=("prepare", "train", "evaluate"),
        settings=("export", "warehouse"),
    ),
    Stage(
        "score",
        "pipeline.nightly:score_everyone",
        needs=("prepare", "export"),
        settings=("score",),
        watches=_item_lists,
        scratch="parts",
    ),
    Stage(
        "publish",
        "pipeline.nightly:publish_champion",
        needs=("export", "score"),
        settings=("warehouse",),
        intact=_recommendations_exist,
    ),
)

_BY_NAME = {stage.name: stage for stage in STAGES}


class Call(Protocol):
    """How a stage is executed: directly, or as a task of a scheduler."""

    def __call__(
        self, name: str, function: Callable[..., Record[Any]], /, *args: Any
    ) -> Record[Any]:
        """Call the function, under the stage's name."""


def call_directly(name: str, function: Callable[..., Record[Any]], /, *args: Any) -> Record[Any]:
    """The plainest `Call`."""
    return function(*args)


@dataclass(frozen=True)
class NightResult:
    """What a night did.

    Attributes:
        run_date: Of the night.
        stages: The record of each stage by its name, in order.
    """

    run_date: date
    stages: Mapping[str, Record[Any]]

    @property
    def headline(self) -> tuple[str, float, float]:
        """NDCG@10 (or at the smallest k asked for), the model's and popularity's."""
        evaluated: Evaluated = self.stages["evaluate"].result
        name = min(
            (k for k in evaluated.model if k.startswith("NDCG")), key=lambda k: k != "NDCG@10"
        )
        return name, evaluated.model[name], evaluated.popularity[name]


def nightly(
    settings: Settings, run_date: date, *, force: bool = False, call: Call = call_directly
) -> NightResult:
    """Run every stage that is not done for the run date.

    Args:
        settings: Of the run.
        run_date: Logs up to the end of this day count, and rows are published under it.
        force: Do every stage again.
        call: How each stage is executed.

    Raises:
        FearecError: a stage failed; those before it stay done.
    """
    started_at = datetime.now(UTC)
    done: dict[str, Record[Any]] = {}
    for stage in STAGES:
        needs = [done[name] for name in stage.needs]
        done[stage.name] = call(stage.name, do_stage, settings, run_date, stage.name, needs, force)
    record_run(settings, run_date, started_at, done)
    return NightResult(run_date, done)


def run_stage(settings: Settings, run_date: date, name: str, *, force: bool = False) -> Record[Any]:
    """Run one stage on what the stages before it have recorded.

    Raises:
        ConfigError: a stage before it is not done.
        FearecError: the stage failed.
    """
    done: dict[str, Record[Any]] = {}
    for stage in takewhile(lambda stage: stage.name != name, STAGES):
        needs = [done[need] for need in stage.needs]
        record = _recorded(settings, run_date, stage, _identity(settings, stage, needs))
        if record is None:
            raise ConfigError(
                f"{name} needs {stage.name}, which is not done with these settings and inputs",
                f"run date {run_date}",
                remedy=f"Run `fearec {stage.name} --date {run_date}` first.",
            )
        done[stage.name] = record
    return do_stage(settings, run_date, name, [done[need] for need in _BY_NAME[name].needs], force)


def do_stage(
    settings: Settings, run_date: date, name: str, needs: list[Record[Any]], force: bool
) -> Record[Any]:
    """Do a stage, unless it is done already and not forced.

    Args:
        settings: Of the run.
        run_date: The night it belongs to.
        name: The stage's name.
        needs: The records of the stages it needs, in its order.
        force: Do it again, from the start.

    Raises:
        FearecError: the stage failed.
    """
    stage = _BY_NAME[name]
    # Taken before the stage runs: a file that arrives meanwhile makes it run again next time.
    identity = _identity(settings, stage, needs)
    if not force:
        record = _recorded(settings, run_date, stage, identity)
        if record:
            return record
    elif stage.scratch:
        shutil.rmtree(night_folder(settings, run_date) / stage.scratch, ignore_errors=True)
    begun = time.perf_counter()
    result = resolve_name(stage.function)(settings, run_date, *(need.result for need in needs))
    record = Record(stage.name, identity, time.perf_counter() - begun, result)
    write_record(settings, run_date, record)
    return record


def _identity(settings: Settings, stage: Stage, needs: list[Record[Any]]) -> str:
    read = {name: attrgetter(name)(settings) for name in stage.settings}
    before = [_BY_NAME[need.stage].identity(need) for need in needs]
    return fingerprint(stage.name, read, [before, stage.watches(settings)])


def _recorded(
    settings: Settings, run_date: date, stage: Stage, identity: str
) -> Record[Any] | None:
    result_type = inspect.signature(resolve_name(stage.function)).return_annotation
    record = read_record(settings, run_date, stage.name, result_type)
    if record and record.fingerprint == identity and stage.intact(settings, record.result):
        return record
    return None
