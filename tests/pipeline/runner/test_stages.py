"""Which stages each setting redoes: every setting is named here, with the stages it enters."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from model.config import FEARecConfig
from pipeline.config.guard_sections import CheckSettings
from pipeline.config.settings import Settings
from pipeline.results import Checked, Gated, Ingested, PairCounts, Prepared, RuleCounts, Scored
from pipeline.runner.cache import RunResults, StageRecord, cache_key, hash_of
from pipeline.runner.stages import STAGES, Score
from pipeline.storage.locations import RunLocations, Warehouse

DAY = date(2026, 7, 1)
EVERY = [stage.name for stage in STAGES]
ALL, PREPARE, CHECK = "ingest", "prepare", "check"  # the first of the stages that are done again
TRAIN, EVALUATE, EXPORT, GATE, SCORE, NOTHING = "train", "evaluate", "export", "gate", "score", ""

# Another value, and the first stage that it redoes; all later ones follow.
MODEL: dict[str, Any] = {
    "MAX_ITEM_LIST_LENGTH": 20,
    "n_layers": 3,
    "n_heads": 4,
    "hidden_size": 32,
    "inner_size": 32,
    "hidden_dropout_prob": 0.1,
    "attn_dropout_prob": 0.1,
    "hidden_act": "relu",
    "layer_norm_eps": 1e-6,
    "initializer_range": 0.1,
    "global_ratio": 0.5,
    "dual_domain": False,
    "std": False,
    "spatial_ratio": 0.3,
    "topk_factor": 2,
    "delays": "sequence",
    "padding": "reflect",
    "position_origin": "end",
    "loss_type": "BPR",
    "sample_num": 2,
    "ce_chunk_size": 100,
    "ce_samples": 50,
    "contrast": "su",
    "tau": 0.5,
    "sim": "cos",
    "lmd": 0.2,
    "lmd_sem": 0.2,
    "fredom": True,
    "fredom_type": "us_x",
}
CHANGES: dict[str, tuple[Any, str]] = {
    "warehouse": ("elsewhere", ALL),
    "work_dir": (Path("elsewhere"), NOTHING),  # another folder has no records at all
    "time_zone": ("Asia/Tokyo", ALL),
    "resources.memory": ("8GB", NOTHING),
    "resources.threads": (3, NOTHING),
    "resources.scratch_dir": (Path("elsewhere"), NOTHING),
    "logs.path": ("other", ALL),
    "logs.user_id": ("who", ALL),
    "logs.item_id": ("what", ALL),
    "logs.timestamp": ("when", ALL),
    "logs.timestamp_unit": ("ms", ALL),
    "logs.time_zone": ("Asia/Tokyo", ALL),
    "logs.event_type": ("kind", ALL),
    "logs.value": ("stars", ALL),
    "logs.keep": ("user_id IS NOT NULL", ALL),
    "items.path": ("items.parquet", NOTHING),
    "users.path": ("users.parquet", NOTHING),
    "items.similar_by": (("category",), NOTHING),  # it counts with `score.new_items`; see below
    "prepare.history_days": (30, PREPARE),
    "prepare.user_inter_num_interval": ("[5,inf)", PREPARE),
    "prepare.item_inter_num_interval": ("[5,inf)", PREPARE),
    "event_types.inputs": (["view"], TRAIN),
    "event_types.targets": (["purchase"], CHECK),
    "event_types.weights": ({"purchase": 3.0}, TRAIN),
    "model.preset": ("best", TRAIN),
    **{f"model.{name}": (value, TRAIN) for name, value in MODEL.items()},
    "train.epochs": (3, TRAIN),
    "train.train_batch_size": (64, TRAIN),
    "train.eval_batch_size": (64, NOTHING),
    "train.learning_rate": (0.1, TRAIN),
    "train.learning_rate_schedule": ("cosine", TRAIN),
    "train.weight_decay": (0.1, TRAIN),
    "train.item_start": ("random", TRAIN),
    "train.item_dropout": (0.2, TRAIN),
    "train.stopping_step": (3, TRAIN),
    "train.clip_grad_norm": (1.0, TRAIN),
    "train.seed": (1, TRAIN),
    "train.refit": (False, TRAIN),
    "train.warm_start": (False, TRAIN),
    "train.accelerator": ("cpu", NOTHING),
    "train.devices": (2, NOTHING),
    "train.threads": (3, NOTHING),
    "train.strategy": ("ddp", NOTHING),
    "train.precision": ("bf16-mixed", TRAIN),
    "train.logger": ("tensorboard", NOTHING),
    "evaluate.split": ("time", TRAIN),
    "evaluate.test_days": (3, NOTHING),  # leave-one-out has no days; see the time split below
    "evaluate.valid_days": (3, NOTHING),
    "evaluate.topk": ((3,), EVALUATE),
    "evaluate.mask_seen": (False, TRAIN),
    "evaluate.bootstrap": (10, EVALUATE),
    "export.parity_sequences": (3000, EXPORT),
    "export.max_parity_error": (1e-5, EXPORT),
    "export.max_near_ties": (1e-2, EXPORT),
    "export.fp16": (True, EXPORT),
    "export.min_fp16_agreement": (0.5, EXPORT),
    "gate.enabled": (False, GATE),
    "gate.tolerance": (0.1, GATE),
    "gate.max_drop": (0.5, GATE),
    "gate.baseline": ("none", GATE),
    "gate.baseline_margin": (0.1, GATE),
    "gate.min_coverage": (0.1, GATE),
    "gate.max_most_listed": (0.5, GATE),
    **{f"checks.{name}.limit": (9, CHECK) for name in CheckSettings.model_fields},
    **{f"checks.{name}.action": ("off", CHECK) for name in CheckSettings.model_fields},
    "score.top_k": (5, SCORE),
    "score.batch_size": (16, NOTHING),
    "score.provider": ("cpu", SCORE),
    "score.precision": ("fp16", SCORE),
    "score.devices": (2, NOTHING),
    "score.threads": (3, NOTHING),
    "score.exclude_seen": (False, SCORE),
    "score.allow": ("ids.txt", SCORE),
    "score.deny": ("ids.txt", SCORE),
    "score.candidates": ("pairs.csv", SCORE),
    "score.exclude": ("pairs.csv", SCORE),
    "score.where": ("popularity > 3", SCORE),
    "score.max_per": ({"popularity": 2}, SCORE),
    "score.promotion": ([{"where": "popularity > 3", "slots": [2]}], SCORE),
    "score.segment": ([{"name": "some", "users": "ids.txt"}], SCORE),
    "score.offset": ("popularity", SCORE),
    "score.freshness": ({"weight": 0.5, "half_life_days": 7}, SCORE),
    "score.popular_within_days": (7, SCORE),
    "score.new_items": ({"share": 0.1, "within_days": 14}, SCORE),
    "score.because": (True, SCORE),
    "score.accept_unknown_deny": (True, NOTHING),
    "score.layout": ("list", SCORE),
    "score.active_within_days": (3, SCORE),
    "score.retire_after_days": (3, SCORE),
    "engine.kind": ("ray", NOTHING),
    "engine.address": ("10.0.0.5:6379", NOTHING),
    "engine.num_cpus": (2, NOTHING),
    "engine.num_gpus": (1, NOTHING),
    "engine.min_workers": (2, NOTHING),
    "engine.max_workers": (3, NOTHING),
    "engine.train_workers": (2, NOTHING),
    "registry.mlflow_tracking_uri": ("sqlite:///mlflow.db", NOTHING),
    "registry.mlflow_name": ("other", NOTHING),
    "retention.after_runs": (False, NOTHING),
    "retention.work": (3, NOTHING),
    "retention.models": (3, NOTHING),
    "retention.recommendations": ("all", NOTHING),
    "retention.table_days": (3.0, NOTHING),
    "tune.params_file": (Path("other.test"), NOTHING),
    "tune.algo": ("tpe", NOTHING),
    "tune.max_evals": (3, NOTHING),
    "tune.workers": (3, NOTHING),
    "tune.prune": (False, NOTHING),
    "tune.out": (Path("elsewhere"), NOTHING),
}
EVENT = datetime(2026, 6, 1, tzinfo=UTC)
INGESTED = Ingested("id", 3, 1, 9, 7, 1, 1, 0)
PREPARED = Prepared(Path("prepared"), "", 1, "", 4, 6, 7, EVENT, EVENT)
GATED = Gated("first", (), "v1", Path("bundle"), "v1", None)


def names_of(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from names_of(kind, f"{prefix}{name}.")
        else:
            yield prefix + name


SETTINGS = [
    *names_of(Settings),
    *(f"model.{name}" for name in FEARecConfig.model_fields if name != "n_items"),
]


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("logs", "other"):
        Path(name).mkdir()
        pq.write_table(pa.table({"user_id": [1]}), f"{name}/a.parquet")
    Path("ids.txt").write_text("a\n")
    Path("pairs.csv").write_text("user_id,item_id\nu,a\n")
    models = Path("warehouse/models")
    models.mkdir(parents=True)
    crowned = {"run_date": "2026-06-30", "model_version": "v0", "path": "v0"}
    (models / "champion.json").write_text(str(crowned).replace("'", '"'))


def settings_with(**changes: Any) -> Settings:
    sections: dict[str, Any] = {"model": {"contrast": "us_x"}}
    for name, value in changes.items():
        *path, key = name.split(".")
        section = sections
        for part in path:
            section = section.setdefault(part, {})
        section[key] = value
    return Settings(**sections)


def keys_of(settings: Settings) -> dict[str, str]:
    """The cache key of every stage of a run in which each result is that of its key."""
    locations = RunLocations(Warehouse(settings.warehouse), settings.work_dir, DAY)
    results: dict[str, Any] = {
        "ingest": INGESTED, "prepare": PREPARED, "check": Checked(), "gate": GATED,
    }  # fmt: skip
    done, keys = RunResults(), {}
    for stage in STAGES:
        given = stage.of(settings, locations, done)
        keys[stage.name] = cache_key(given)
        result = results.get(stage.name)
        output = keys[stage.name]
        done = done.with_record(StageRecord(stage.name, output, output, 0.0, result))
    return keys


def redone(before: Settings, after: Settings) -> list[str]:
    one, other = keys_of(before), keys_of(after)
    return [name for name in EVERY if one[name] != other[name]]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_redoes_exactly_what_depends_on_it(name: str) -> None:
    assert name in CHANGES, f"say here what a change of {name} redoes"
    value, first = CHANGES[name]
    given = {"model.fredom_type": "un"} if name == "model.fredom" else {}
    given |= {"logs.event_type": "kind"} if name.startswith("event_types.") else {}
    expected = EVERY[EVERY.index(first) :] if first else []
    if name.startswith("checks."):  # which can hold the run, but changes nothing in the model
        expected = [stage for stage in expected if stage not in (TRAIN, EVALUATE, EXPORT)]
    assert redone(settings_with(**given), settings_with(**given, **{name: value})) == expected


def test_nothing_is_named_that_is_no_setting() -> None:
    assert set(CHANGES) == set(SETTINGS)


@pytest.mark.parametrize("name", ["evaluate.test_days", "evaluate.valid_days"])
def test_the_days_of_a_time_split_train_again(name: str) -> None:
    by_time = {"evaluate.split": "time"}
    changed = settings_with(**by_time, **{name: 3})
    assert redone(settings_with(**by_time), changed) == EVERY[EVERY.index(TRAIN) :]


def test_another_champion_trains_again() -> None:
    before = keys_of(Settings())
    path = Path("warehouse/models/champion.json")
    path.write_text(path.read_text().replace("v0", "v1"))
    after = keys_of(Settings())
    assert [name for name in EVERY if before[name] != after[name]] == EVERY[EVERY.index(TRAIN) :]
    without = Settings(train={"warm_start": False})
    assert keys_of(without)["train"] not in (before["train"], after["train"])


@pytest.mark.parametrize(
    ("name", "path"),
    [("deny", "ids.txt"), ("candidates", "pairs.csv"), ("exclude", "pairs.csv")],
)
def test_the_content_of_a_list_of_ids_counts(name: str, path: str) -> None:
    listed = settings_with(**{f"score.{name}": path})
    before = keys_of(listed)
    Path(path).write_text("user_id,item_id\nu,b\n")
    after = keys_of(listed)
    assert [name for name in EVERY if before[name] != after[name]] == ["score", "publish"]


@pytest.mark.parametrize("where", ["price > 3", None])
def test_the_content_of_the_items_table_counts_where_a_rule_reads_it(where: str | None) -> None:
    table = Path("items.csv")
    table.write_text("item_id,price\na,3\n")
    settings = settings_with(**{"items.path": str(table), "score.where": where})
    before = keys_of(settings)
    table.write_text("item_id,price\na,4\n")
    after = keys_of(settings)
    changed = [name for name in EVERY if before[name] != after[name]]
    assert changed == (["score", "publish"] if where else [])


@pytest.mark.parametrize("users", ["country = 'DE'", "./ids.txt"])
def test_the_content_of_the_users_table_counts_where_a_segment_reads_it(users: str) -> None:
    table = Path("users.csv")
    table.write_text("user_id,country\na,DE\n")
    segment = [{"name": "german", "users": users}]
    settings = settings_with(**{"users.path": str(table), "score.segment": segment})
    before = keys_of(settings)
    table.write_text("user_id,country\na,FR\n")
    after = keys_of(settings)
    changed = [name for name in EVERY if before[name] != after[name]]
    assert changed == (["score", "publish"] if "=" in users else [])


def test_the_content_of_a_segment_s_file_counts() -> None:
    settings = settings_with(**{"score.segment": [{"name": "some", "users": "ids.txt"}]})
    before = keys_of(settings)
    Path("ids.txt").write_text("b\n")
    after = keys_of(settings)
    assert [name for name in EVERY if before[name] != after[name]] == ["score", "publish"]


def test_a_result_without_rules_has_the_key_that_it_had_before_there_were_rules() -> None:
    records = {"prepare": PREPARED, "gate": GATED}
    done = RunResults(*(StageRecord(name, "", "", 0.0, each) for name, each in records.items()))
    given = Score.of(Settings(), RunLocations(Warehouse("w"), Path("work"), DAY), done)
    scored = Scored("f", "v", "CPU", "fp32", 1, 1, 1, 0, 0, {}, 0, 0, 0, 0, (), 1.0, 1.0)
    values = to_jsonable_python(scored)
    for name in ("rules", "new_items", "n_recent", "candidates", "exclude"):
        assert values.pop(name) is None
    assert values.pop("segments") == []
    assert values.pop("absent_types") == []
    assert given.output_key(scored) == hash_of([cache_key(given), values])
    ruled = replace(scored, rules=RuleCounts(1, 0, 0))
    assert given.output_key(ruled) != given.output_key(scored)
    listed = replace(scored, exclude=PairCounts())
    assert given.output_key(listed) != given.output_key(scored)


def test_log_files_without_news_do_not_count() -> None:
    one, two = (Ingested("id", 3, files, 9, 7, 1, 1, 0) for files in (1, 2))
    (ingest, *_) = STAGES
    given = ingest.of(Settings(), RunLocations(Warehouse("w"), Path("work"), DAY), RunResults())
    assert given.output_key(one) == given.output_key(two)
    assert given.output_key(one) != given.output_key(Ingested("id", 4, 1, 9, 7, 1, 1, 0))


def test_a_forced_ingest_reads_known_files_too() -> None:
    (ingest, *_) = STAGES
    given = ingest.of(Settings(), RunLocations(Warehouse("w"), Path("work"), DAY), RunResults())
    assert given.forced().read_all
    assert not given.read_all
    assert cache_key(given.forced()) == cache_key(given)
