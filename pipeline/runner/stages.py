"""The stages of a night: what each needs, and what decides whether it has to be done again."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from pipeline.bundles.bundle import DESCRIPTION, Bundle
from pipeline.bundles.registry import set_champion
from pipeline.config.settings import Settings
from pipeline.errors import ResumeError
from pipeline.logs.id_lists import id_list_hash
from pipeline.logs.log_files import list_log_files
from pipeline.publishing.publish import RECOMMENDATIONS, Published, publish
from pipeline.runner.cache import Record, night_folder
from pipeline.scoring.eligibility import eligible_items
from pipeline.scoring.progress import scoring_progress
from pipeline.scoring.run import ScoreResult, score
from pipeline.storage.folders import StoreFolder
from pipeline.warehouse.tables import has_table, models

if TYPE_CHECKING:
    from pipeline.data.ingest import IngestResult
    from pipeline.data.prepare import Prepared
    from pipeline.training.export import Exported


def score_everyone(
    settings: Settings, run_date: date, prepared: "Prepared", exported: "Exported"
) -> ScoreResult:
    """The score stage: every prepared history, by the night's bundle.

    Raises:
        FearecError: as `pipeline.scoring.run.score`.
    """
    from pipeline.data.prepare import SEQUENCES_FILE

    folder = night_folder(settings, run_date) / "parts"
    run = partial(
        score,
        [str(prepared.folder / SEQUENCES_FILE)],
        Bundle.load(exported.bundle),
        folder,
        settings.score,
        logs=settings.logs,
        run_date=run_date,
        time_zone=settings.time_zone,
        cache=settings.work_dir / "tensorrt",
    )
    with scoring_progress() as progress:
        try:
            return run(resume=True, progress=progress)
        except ResumeError:  # what is there is of another model, input or settings, or broken
            shutil.rmtree(folder)
            return run(progress=progress)


def refuse_unscorable(settings: Settings, prepared: "Prepared") -> None:
    """What the score stage would refuse is refused before the hours of training.

    Raises:
        ConfigError: it asks for more items than there are, or leaves none to recommend.
        InputError: a file of ids cannot be read.
        SchemaError: its ids are of another kind than the items'.
    """
    from pipeline.data.prepare import ITEMS_FILE

    # The very table that the bundle will have.
    eligible_items(pq.read_table(prepared.folder / ITEMS_FILE), settings.score)


def publish_champion(
    settings: Settings, run_date: date, exported: "Exported", scored: ScoreResult
) -> Published:
    """The publish stage: the recommendations, and then the model that made them as champion.

    Raises:
        PublishError: as `pipeline.publishing.publish.publish`.
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
    return [id_list_hash(path) for path in lists if path]


def _always(settings: Settings, result: Any) -> bool:
    return True


def _interactions_exist(settings: Settings, ingested: "IngestResult") -> bool:
    version = ingested.interactions_version
    return has_table(settings, "interactions", ingested.interactions_id, version)


def _vocabulary_exists(settings: Settings, prepared: "Prepared") -> bool:
    return has_table(settings, "vocabulary", prepared.vocabulary_id)


def _bundle_exists(settings: Settings, exported: "Exported") -> bool:
    folder = models(settings, exported.model_version)
    # On a disk it is the very folder of the record, which is looked for anyway.
    return not isinstance(folder, StoreFolder) or DESCRIPTION in folder.names()


def _parts_exist(settings: Settings, scored: ScoreResult) -> bool:
    return Path(scored.folder).exists()


def _recommendations_exist(settings: Settings, published: Published) -> bool:
    return has_table(settings, RECOMMENDATIONS, published.table_id, published.version)


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
        "pipeline.data.ingest:ingest",
        settings=("warehouse", "time_zone", "logs"),
        watches=_log_stamps,
        identity=attrgetter("result.interactions_id", "result.interactions_version"),
        intact=_interactions_exist,
    ),
    Stage(
        "prepare",
        "pipeline.data.prepare:prepare",
        needs=("ingest",),
        settings=("warehouse", "time_zone", "prepare"),
        intact=_vocabulary_exists,
    ),
    Stage(
        "train",
        "pipeline.training.train:train",
        needs=("prepare",),
        settings=("model", "train", "evaluate.mask_seen", "evaluate.held_out"),
        scratch="train",
    ),
    Stage(
        "evaluate",
        "pipeline.evaluation.evaluate:evaluate",
        needs=("prepare", "train"),
        settings=("evaluate",),
    ),
    Stage(
        "export",
        "pipeline.training.export:export",
        needs=("prepare", "train", "evaluate"),
        settings=("export", "warehouse"),
        intact=_bundle_exists,
    ),
    Stage(
        "score",
        "pipeline.runner.stages:score_everyone",
        needs=("prepare", "export"),
        settings=("score",),
        watches=_item_lists,
        intact=_parts_exist,
        scratch="parts",
    ),
    Stage(
        "publish",
        "pipeline.runner.stages:publish_champion",
        needs=("export", "score"),
        settings=("warehouse",),
        intact=_recommendations_exist,
    ),
)
