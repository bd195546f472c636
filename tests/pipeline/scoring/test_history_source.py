"""Scoring from a history source that is no file: what `score_histories` needs of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.bundles.bundle import Bundle
from pipeline.config.score_section import ScoreSettings
from pipeline.errors import ResumeError, SchemaError
from pipeline.logs.validation import IdTypes
from pipeline.results import Scored
from pipeline.scoring.history_source import HistorySource, OpenedHistories
from pipeline.scoring.run import score_histories
from pipeline.scoring.user_histories import DroppedRows, UserHistories
from tests.helpers.scoring_cases import RUN_DATE, assert_rows, brute_force, rows


@dataclass(frozen=True)
class Encoded:
    """Histories of item indices, in batches of one user each."""

    indices: dict[str, list[int]]
    where: str = "memory"
    types: IdTypes = field(default_factory=lambda: IdTypes(pa.string(), pa.string()))
    dropped: DroppedRows = field(default_factory=DroppedRows)

    def with_last_seen(self, items: pa.Table) -> pa.Table:
        items["item_id"].cast(self.types.item)  # not asked before the kinds were compared
        return items

    def popularity_since(self, items: pa.Table, since: datetime) -> np.ndarray:
        raise NotImplementedError

    def user_ids(self) -> Iterator[pa.Array]:
        raise AssertionError("no user is listed")

    @contextmanager
    def open(self, items: pa.Table, scratch: Path) -> Iterator[OpenedHistories]:
        assert scratch.is_dir()
        self.dropped.unknown_items += 3
        yield OpenedHistories(
            len(self.indices),
            (
                UserHistories(pa.array([user]), np.array(mine, np.int64), np.array([0, len(mine)]))
                for user, mine in self.indices.items()
            ),
        )


def run(source: HistorySource, bundle: Bundle, out: Path, version: str, **flags: bool) -> Scored:
    settings = ScoreSettings(provider="cpu", top_k=5)
    inputs = {"version": version}
    return score_histories(
        source, bundle, out, settings, run_date=RUN_DATE, resume_inputs=inputs, **flags
    )


def test_histories_of_any_source_are_scored_and_resumed(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    histories = {"b": [3, 1], "a": [7], "none": []}
    result = run(Encoded(histories), tiny_bundle, tmp_path / "out", "1")
    assert (result.n_users, result.n_fallback, result.unknown_items) == (3, 1, 3)
    assert_rows(
        rows(tmp_path / "out"),
        {
            user: brute_force(tiny_bundle, [f"item{index}" for index in mine])
            for user, mine in histories.items()
        },
    )
    written = (tmp_path / "out" / "part-00000.parquet").stat().st_mtime_ns
    assert run(Encoded(histories), tiny_bundle, tmp_path / "out", "1", resume=True).n_users == 3
    assert (tmp_path / "out" / "part-00000.parquet").stat().st_mtime_ns == written
    with pytest.raises(ResumeError, match="inputs version is not what it was"):
        run(Encoded(histories), tiny_bundle, tmp_path / "out", "2", resume=True)


def test_a_source_without_users_gives_an_empty_part_of_its_id_types(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    source = Encoded({}, types=IdTypes(pa.int16(), pa.string()))
    assert run(source, tiny_bundle, tmp_path / "out", "1").n_users == 0
    table = pq.read_table(tmp_path / "out")
    assert (table.num_rows, table.schema.field("user_id").type) == (0, pa.int16())


def test_a_source_with_item_ids_of_another_kind_is_an_error(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    source = Encoded({"a": [1]}, types=IdTypes(pa.string(), pa.int64()))
    with pytest.raises(SchemaError, match="memory: ids of another kind; expected string"):
        run(source, tiny_bundle, tmp_path / "out", "1")
    assert not (tmp_path / "out").exists()
