"""The types of events in prepared folders: exact, and only where the logs have them."""

from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import schema
from pipeline.config.sections import PrepareSettings
from pipeline.data.event_types import EventTypes, index_of_types
from pipeline.runner.cache import RunResults, StageRecord
from pipeline.runner.stages import Ingest, Prepare
from pipeline.storage.prepared_folder import event_type_names, prepared_hash, read_sequences
from tests.helpers.ingest_cases import NOON, TODAY, settings_in
from tests.helpers.stages import ingest, locations, prepare


def write_logs(folder: Path) -> list[tuple[int, str, datetime, str | None]]:
    """Two files of events; many are of one user and time. All are different."""
    random = Random(4)
    rows = {
        (
            random.randrange(9),
            random.choice("uvwxyz"),
            NOON - timedelta(hours=random.randrange(5)),
            random.choice(["view", "buy", "", None, "zoom", "add"]) or None,
        ): None
        for _ in range(150)
    }
    (folder / "logs").mkdir()
    for name, some in (("b.parquet", [*rows][:70]), ("a.parquet", [*rows][70:])):
        columns = zip(*some, strict=True)
        kinds = (pa.int64(), pa.string(), schema.TIME, pa.string())
        arrays = [pa.array(each, kind) for each, kind in zip(columns, kinds, strict=True)]
        names = ["user_id", "item_id", "timestamp", "kind"]
        pq.write_table(pa.table(arrays, names), folder / "logs" / name)
    return [*rows][70:] + [*rows][:70]  # in the order of the files' names


@pytest.mark.parametrize("interval", [None, "[18,inf)"])
def test_each_event_has_its_own_type(tmp_path: Path, interval: str | None) -> None:
    rows = write_logs(tmp_path)
    settings = settings_in(tmp_path, event_type="kind")
    limits = PrepareSettings(user_inter_num_interval=interval)
    settings = settings.model_copy(update={"prepare": limits})
    prepared = prepare(settings, TODAY, ingest(settings, TODAY))
    n_events = Counter(user for user, *_ in rows)
    rows = [row for row in rows if interval is None or n_events[row[0]] >= 18]
    counts = Counter(kind for *_, kind in rows if kind)
    table = pq.read_table(prepared.folder / schema.EVENT_TYPES_FILE)
    assert table.to_pylist() == [
        {"event_type": kind, "n_events": counts[kind]} for kind in sorted(counts)
    ]
    ids = [None, *pq.read_table(prepared.folder / schema.ITEMS_FILE)["item_id"].to_pylist()]
    names = event_type_names(prepared.folder)
    assert names is not None
    kinds = [None, *names.to_pylist()]
    columns = ["user_id", "timestamps", "item_index", "event_type_index"]
    found = {
        row["user_id"]: [
            (row["user_id"], ids[item], time, kinds[kind])
            for time, item, kind in zip(*(row[name] for name in columns[1:]), strict=True)
        ]
        for batch in read_sequences(prepared.folder, columns)
        for row in batch.to_pylist()
    }
    assert found == {
        user: sorted((row for row in rows if row[0] == user), key=lambda row: row[2])
        for user in {row[0] for row in rows}
    }
    assert (len(found) < len(n_events)) == (interval is not None)


def test_a_folder_of_other_settings_or_an_earlier_version_is_made_anew(tmp_path: Path) -> None:
    write_logs(tmp_path)
    settings = settings_in(tmp_path, event_type="kind")
    ingested = ingest(settings, TODAY)
    given = locations(settings, TODAY)
    done = RunResults().with_record(StageRecord(Ingest.name, "", "", 0.0, ingested))
    typed, plain = (Prepare.of(each, given, done) for each in (settings, settings_in(tmp_path)))
    before = plain.run()
    assert not (before.folder / schema.EVENT_TYPES_FILE).exists()
    assert (plain.is_intact(before), typed.is_intact(before)) == (True, False)
    after = typed.run()
    assert (plain.is_intact(after), typed.is_intact(after)) == (False, True)
    assert replace(after, content_hash=before.content_hash) == before
    (after.folder / schema.EVENT_TYPES_FILE).write_bytes(b"x")
    assert not typed.is_intact(after)
    again = plain.run()
    assert again == before
    assert prepared_hash(again.folder) == before.content_hash


def test_indices_move_with_the_names() -> None:
    def types(**counts: int | None) -> EventTypes:
        columns = {"event_type": [*counts], "n_events": [*counts.values()]}
        return EventTypes.of(pa.table(columns, schema.EVENT_TYPES_SCHEMA))

    before, after = types(view=3, buy=2, gone=1), types(view=3, add=1, buy=2, gone=0)
    assert before.names.to_pylist() == ["buy", "gone", "view"]
    moved = after.moved_from(before)
    assert moved is not None
    assert moved.tolist() == [0, 2, 0, 3]
    assert before.moved_from(types(buy=9, gone=9, view=1)) is None
    text = pa.array(["view", None, "add", "other"])
    for column in (text, text.dictionary_encode()):
        assert index_of_types(column, after.names).to_pylist() == [3, 0, 1, 0]
