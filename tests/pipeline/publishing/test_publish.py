"""Publishing scored parts: a partition replaced as a whole, once."""

import json
import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from pipeline.config.score_section import ScoreSettings
from pipeline.config.settings import Settings
from pipeline.errors import ConfigError, InputError, PublishError
from pipeline.publishing import publish as publishing
from pipeline.publishing.publish import check_layout, is_published
from pipeline.results import Scored
from pipeline.schema import recommendation_lists_schema, recommendations_schema
from pipeline.scoring.manifest import MANIFEST
from pipeline.storage.content_hash import content_hash
from pipeline.storage.locations import Warehouse
from pipeline.warehouse.lookup import first_users, recommended_to
from tests.helpers.scored_parts import write_tables
from tests.helpers.stages import locations, publish

DAY, NEXT = date(2026, 7, 1), date(2026, 7, 2)
LONG = recommendations_schema(pa.int64(), pa.string())
LISTS = recommendation_lists_schema(pa.int64(), pa.string())


def long_rows(users: range, day: date, version: str) -> list[dict[str, Any]]:
    return [
        {
            "user_id": user,
            "rank": rank,
            "item_id": f"{version}-{user % 7 + rank}",
            "score": 1 / rank,
            "source": "model",
            "model_version": version,
            "run_date": day,
            "generated_at": datetime(2026, 7, 2, 3, tzinfo=UTC),
        }
        for user in users
        for rank in (1, 2)
    ]


def list_rows(users: range, day: date, version: str) -> list[dict[str, Any]]:
    return [
        {
            "user_id": user,
            "recommendations": [
                {"item_id": f"{version}-{rank}", "score": 1 / rank} for rank in (1, 2)
            ],
            "source": "popular",
            "model_version": version,
            "run_date": day,
            "generated_at": datetime(2026, 7, 2, 3, tzinfo=UTC),
        }
        for user in users
    ]


def scored(
    folder: Path,
    day: date = DAY,
    version: str = "v1",
    users: tuple[int, ...] = (5, 3),
    schema: pa.Schema = LONG,
) -> Scored:
    """Parts of so many users each, as a scoring run leaves them."""
    rows_of: Callable[..., list[dict[str, Any]]] = long_rows if schema == LONG else list_rows
    ends = [0, *accumulate(users)]
    parts = [
        (pa.Table.from_pylist(rows_of(range(first, end), day, version), schema), end - first)
        for first, end in pairwise(ends)
    ]
    return write_tables(folder, parts, schema.empty_table(), version)


def read_without_checksum(folder: Path) -> dict[str, Any]:
    """The content of a manifest, to be changed; version 0.1.0 wrote no checksum."""
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    del manifest["checksum"]
    return manifest


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(warehouse=str(tmp_path / "warehouse"), work_dir=tmp_path / "work")


def rows_of(table: str, day: date | None = None) -> list[dict[str, Any]]:
    rows = DeltaTable(table).to_pyarrow_table().to_pylist()
    chosen = [row for row in rows if day is None or row["run_date"] == day]
    return sorted(chosen, key=lambda row: (row["run_date"], row["user_id"], row.get("rank", 0)))


def test_the_table_holds_the_rows_of_all_parts(settings: Settings, tmp_path: Path) -> None:
    published = publish(settings, DAY, scored(tmp_path / "parts"))
    expected = pa.Table.from_pylist(long_rows(range(8), DAY, "v1"), LONG).to_pylist()
    assert rows_of(published.table) == expected
    assert (published.n_rows, published.n_users, published.version) == (16, 8, 0)
    assert DeltaTable(published.table).metadata().partition_columns == ["run_date"]


def test_publishing_the_same_run_again_changes_nothing(settings: Settings, tmp_path: Path) -> None:
    parts = scored(tmp_path / "parts")
    published = publish(settings, DAY, parts)
    publish(settings, NEXT, scored(tmp_path / "next", NEXT))
    again = publish(settings, DAY, parts)
    assert again.version == published.version + 1  # of the next night's commit alone
    assert (again.n_rows, again.n_users) == (published.n_rows, published.n_users)


def test_another_run_replaces_its_own_partition_only(settings: Settings, tmp_path: Path) -> None:
    publish(settings, DAY, scored(tmp_path / "parts"))
    table = publish(settings, NEXT, scored(tmp_path / "next", NEXT, users=(4,))).table
    next_day = rows_of(table, NEXT)
    publish(settings, DAY, scored(tmp_path / "again", version="v2", users=(2,)))
    assert rows_of(table, NEXT) == next_day
    assert {row["model_version"] for row in rows_of(table, DAY)} == {"v2"}
    assert len(rows_of(table, DAY)) == 4


@pytest.mark.parametrize("lost", ["deleted", "some deleted", "another run's", "table made anew"])
def test_rows_that_are_no_longer_the_runs_are_published_again(
    lost: str, settings: Settings, tmp_path: Path
) -> None:
    parts = scored(tmp_path / "parts")
    published = publish(settings, DAY, parts)
    publish(settings, NEXT, scored(tmp_path / "next", NEXT))
    table = published.table
    before = rows_of(table, DAY)
    assert is_published(published, parts, locations(settings, DAY))
    if lost == "another run's":
        publish(settings, DAY, scored(tmp_path / "other"))
    elif lost == "table made anew":
        shutil.rmtree(table)
    else:
        some = " AND user_id > 3" if lost == "some deleted" else ""
        DeltaTable(table).delete(f"run_date = '{DAY}'{some}")
    assert not is_published(published, parts, locations(settings, DAY))
    again = publish(settings, DAY, parts)
    assert rows_of(table, DAY) == before
    assert is_published(again, parts, locations(settings, DAY))


def test_parts_that_are_gone_cannot_be_told_to_be_published(
    settings: Settings, tmp_path: Path
) -> None:
    parts = scored(tmp_path / "parts")
    published = publish(settings, DAY, parts)
    shutil.rmtree(parts.folder)
    assert not is_published(published, parts, locations(settings, DAY))


def test_lists_are_published_as_lists(settings: Settings, tmp_path: Path) -> None:
    table = publish(settings, DAY, scored(tmp_path / "parts", schema=LISTS)).table
    rows = rows_of(table)
    assert [row["user_id"] for row in rows] == list(range(8))
    assert rows[0]["recommendations"] == [
        {"item_id": "v1-1", "score": 1.0},
        {"item_id": "v1-2", "score": 0.5},
    ]
    assert publish(settings, DAY, scored(tmp_path / "parts", schema=LISTS)).version == 1


def test_a_changed_layout_is_refused_and_the_table_kept(settings: Settings, tmp_path: Path) -> None:
    table = publish(settings, DAY, scored(tmp_path / "parts")).table
    before = rows_of(table)
    with pytest.raises(PublishError, match=r"expected rank: int32.*score\.layout"):
        publish(settings, NEXT, scored(tmp_path / "lists", NEXT, schema=LISTS))
    text_ids = recommendations_schema(pa.string(), pa.string())
    parts = scored(tmp_path / "text", NEXT, users=(1,))
    rows = [{**row, "user_id": "u"} for row in long_rows(range(1), NEXT, "v1")]
    table_of_texts = pa.Table.from_pylist(rows, text_ids)
    pq.write_table(table_of_texts, Path(parts.folder) / "part-00000.parquet")
    with pytest.raises(PublishError, match="expected user_id: int64; found user_id: string"):
        publish(settings, NEXT, parts)
    assert rows_of(table) == before


@pytest.mark.parametrize("layout", [recommendations_schema, recommendation_lists_schema])
@pytest.mark.parametrize(("first", "then"), [("int32", "int64"), ("int64", "int32")])
def test_ids_of_another_width_are_published(
    settings: Settings, tmp_path: Path, layout: Callable[..., pa.Schema], first: str, then: str
) -> None:
    kinds = {"int32": pa.int32(), "int64": pa.int64()}
    before = kinds[first]
    now = kinds[then]

    def parts(name: str, day: date, kind: pa.DataType) -> Scored:
        like = LONG if layout is recommendations_schema else LISTS
        result = scored(tmp_path / name, day, users=(3,), schema=like)
        path = Path(result.folder) / "part-00000.parquet"
        rows = pq.read_table(path).to_pylist()
        for row in rows:
            for entry in row.get("recommendations", [row]):
                entry["item_id"] = 7
        pq.write_table(pa.Table.from_pylist(rows, layout(kind, kind)), path)
        manifest = read_without_checksum(Path(result.folder))
        manifest["parts"][path.name]["content_hash"] = content_hash(path)
        (Path(result.folder) / MANIFEST).write_text(json.dumps(manifest))
        return result

    table = publish(settings, DAY, parts("first", DAY, before)).table
    earlier = rows_of(table)
    publish(settings, NEXT, parts("next", NEXT, now))
    assert rows_of(table, DAY) == earlier
    assert len(rows_of(table, NEXT)) == len(earlier)
    columns = DeltaTable(table).to_pyarrow_table().schema
    assert columns.field("user_id").type == pa.int64()
    assert "int32" not in str(
        columns.field(1 if layout is recommendation_lists_schema else "item_id")
    )
    assert DeltaTable(table).metadata().partition_columns == ["run_date"]
    version = publish(settings, DAY, scored_again(tmp_path / "first")).version
    assert version == DeltaTable(table).version()
    assert rows_of(table, DAY) == earlier


def with_reasons(folder: Path, schema: pa.Schema) -> None:
    """Rewrite parts as a run with `because` and promotions writes them."""
    manifest = read_without_checksum(folder)
    for name in manifest["parts"]:
        rows = pq.read_table(folder / name).to_pylist()
        for row in rows:
            for entry in row.get("recommendations", [row]):
                entry |= {"because": "b", "source": "promoted"}
        pq.write_table(pa.Table.from_pylist(rows, schema), folder / name)
        manifest["parts"][name]["content_hash"] = content_hash(folder / name)
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("layout", ["long", "list"])
def test_runs_with_because_and_without_follow_each_other(
    settings: Settings, tmp_path: Path, layout: str, first: bool
) -> None:
    ids = pa.int64(), pa.string()
    plain, full = LONG, recommendations_schema(*ids, because=True)
    if layout == "list":
        plain, full = LISTS, recommendation_lists_schema(*ids, sources=True, because=True)
    days = [DAY, NEXT, date(2026, 7, 3), date(2026, 7, 4)]
    for place, day in enumerate(days):
        parts = scored(tmp_path / str(day), day, schema=plain)
        if (place % 2 == 0) == first:
            with_reasons(tmp_path / str(day), full)
        published = publish(settings, day, parts)
        assert publish(settings, day, parts) == published
    columns = DeltaTable(published.table).to_pyarrow_dataset().schema
    assert set(columns.names) == set(full.names)
    user = 2
    for place, day in enumerate(days):
        (found,) = recommended_to(Warehouse(settings.warehouse), [user], day)
        assert len(found.items) == 2
        if (place % 2 == 0) == first:
            assert (found.sources, found.because) == (("promoted",) * 2, ("b",) * 2)
        else:
            source = "popular" if layout == "list" else "model"
            assert (found.sources, found.because) == ((source,) * 2, ())


def test_other_columns_are_still_refused(settings: Settings, tmp_path: Path) -> None:
    table = publish(settings, DAY, scored(tmp_path / "parts")).table
    parts = scored(tmp_path / "more", NEXT)
    with_reasons(tmp_path / "more", LONG.append(pa.field("weight", pa.int64())))
    with pytest.raises(PublishError, match="other columns"):
        publish(settings, NEXT, parts)
    assert len(rows_of(table)) == 16


def scored_again(folder: Path) -> Scored:
    """What `scored` returned for parts that are there."""
    counts = json.loads((folder / MANIFEST).read_text())["parts"]["part-00000.parquet"]
    return Scored(
        str(folder), "v1", "CPUExecutionProvider", "fp32", 1, counts["n_users"], counts["n_rows"],
        0, 0, {}, 0, 0, 0, 0, (), 1.0, 1.0,
    )  # fmt: skip


def test_a_changed_layout_is_refused_before_a_night(settings: Settings, tmp_path: Path) -> None:
    check_layout(settings.score.layout, locations(settings))  # no table yet
    lists = settings.model_copy(update={"score": ScoreSettings(layout="list")})
    publish(settings, DAY, scored(tmp_path / "parts"))
    check_layout(settings.score.layout, locations(settings))
    with pytest.raises(ConfigError, match=r'score\.layout = "long"; found \'list\'') as caught:
        check_layout(lists.score.layout, locations(lists))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "user", ["99999999999999999999999", "-9223372036854775809", "x", "[/x]", "9" * 5000]
)
def test_no_number_of_a_user_is_told(settings: Settings, tmp_path: Path, user: str) -> None:
    publish(settings, DAY, scored(tmp_path / "parts"))
    with pytest.raises(InputError, match="no such user"):
        recommended_to(Warehouse(settings.warehouse), [user])


def swap_scores(folder: Path) -> None:
    """Other rows, as many as before."""
    part = folder / "part-00001.parquet"
    table = pq.read_table(part)
    score = table.schema.get_field_index("score")
    pq.write_table(table.set_column(score, "score", table["score"].combine_chunks()[::-1]), part)


def unfinish(folder: Path) -> None:
    manifest = read_without_checksum(folder)
    (folder / MANIFEST).write_text(json.dumps({**manifest, "complete": False}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / MANIFEST).unlink(), "no scored parts"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "no scored parts"),
        (unfinish, "did not end"),
        (lambda folder: (folder / "part-00001.parquet").unlink(), "part-00001.parquet"),
        (
            lambda folder: (folder / "part-00001.parquet").write_bytes(
                (folder / "part-00000.parquet").read_bytes()
            ),
            "expected 16 rows; found 20",
        ),
        (swap_scores, r"part-00001\.parquet: .*not as they were written; expected sha256"),
    ],
)
def test_parts_that_are_not_as_they_were_written_are_refused(
    settings: Settings, tmp_path: Path, spoil: Callable[[Path], Any], message: str
) -> None:
    table = publish(settings, DAY, scored(tmp_path / "good")).table
    before = rows_of(table)
    parts = scored(tmp_path / "parts", version="v2")
    spoil(Path(parts.folder))
    with pytest.raises(PublishError, match=message) as caught:
        publish(settings, DAY, parts)
    assert "\n" not in str(caught.value)
    assert rows_of(table) == before


def test_parts_of_version_0_1_0_have_no_hashes_and_are_published(
    settings: Settings, tmp_path: Path
) -> None:
    parts = scored(tmp_path / "parts")
    path = Path(parts.folder) / MANIFEST
    manifest = read_without_checksum(Path(parts.folder))
    for part in manifest["parts"].values():
        del part["content_hash"]
    path.write_text(json.dumps(manifest))
    assert publish(settings, DAY, parts).n_rows == 16


def test_no_rows_are_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="no recommendations"):
        publish(settings, DAY, scored(tmp_path / "parts", users=()))
    assert not Path(settings.warehouse).exists()


def test_rows_of_another_date_are_refused(settings: Settings, tmp_path: Path) -> None:
    table = publish(settings, DAY, scored(tmp_path / "parts")).table
    before = rows_of(table)
    with pytest.raises(PublishError, match=r"another run date.*07-01; found 2026-07-02") as caught:
        publish(settings, DAY, scored(tmp_path / "next", NEXT))
    assert "\n" not in str(caught.value)
    assert rows_of(table) == before


def test_a_race_is_told(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(settings, DAY, scored(tmp_path / "first"))
    mine = scored(tmp_path / "mine", version="mine")

    real = publishing.replace_files

    def write_after_another(*given: Any) -> None:
        monkeypatch.undo()
        publish(settings, DAY, scored(tmp_path / "theirs", version="theirs"))
        real(*given)

    monkeypatch.setattr(publishing, "replace_files", write_after_another)
    with pytest.raises(PublishError, match="lost the race") as caught:
        publish(settings, DAY, mine)
    assert "\n" not in str(caught.value)
    table = str(Path(settings.warehouse) / "recommendations")
    assert {row["model_version"] for row in rows_of(table)} == {"theirs"}


@pytest.mark.parametrize("first", [True, False], ids=["new table", "a table"])
def test_runs_of_two_dates_at_once_are_both_published(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    if not first:
        publish(settings, date(2026, 6, 30), scored(tmp_path / "earlier", date(2026, 6, 30)))
    mine, real = scored(tmp_path / "mine"), publishing.replace_files

    def write_after_another(*given: Any) -> None:
        monkeypatch.undo()
        publish(settings, NEXT, scored(tmp_path / "theirs", NEXT, "theirs", users=(3,)))
        real(*given)

    monkeypatch.setattr(publishing, "replace_files", write_after_another)
    table = publish(settings, DAY, mine).table
    assert (len(rows_of(table, DAY)), len(rows_of(table, NEXT))) == (16, 6)


def test_parts_go_into_the_table_as_they_are(settings: Settings, tmp_path: Path) -> None:
    parts = scored(tmp_path / "parts")
    table = publish(settings, DAY, parts).table
    actions = pa.table(DeltaTable(table).get_add_actions(flatten=True)).to_pylist()
    assert sorted(
        (each["num_records"], each["min.user_id"], each["max.user_id"]) for each in actions
    ) == [(6, 5, 7), (10, 0, 4)]
    contents = {(Path(table) / each["path"]).read_bytes() for each in actions}
    assert contents == {path.read_bytes() for path in Path(parts.folder).glob("*.parquet")}


@pytest.mark.parametrize("schema", [LONG, LISTS], ids=["long", "list"])
def test_recommendations_are_looked_up_in_either_layout(
    settings: Settings, tmp_path: Path, schema: pa.Schema
) -> None:
    publish(settings, NEXT, scored(tmp_path / "next", NEXT, "v2", schema=schema))
    publish(settings, DAY, scored(tmp_path / "parts", DAY, "v1", schema=schema))
    some = first_users(Warehouse(settings.warehouse), DAY, 3)
    assert len(set(some)) == 3
    assert set(some) < set(range(8))
    assert len(recommended_to(Warehouse(settings.warehouse), some, DAY)) == 3
    found = recommended_to(Warehouse(settings.warehouse), ["4", "99"])
    assert [(one.user_id, one.run_date, one.model_version) for one in found] == [(4, NEXT, "v2")]
    assert [score for _, score in found[0].items] == [1.0, 0.5]
    assert recommended_to(Warehouse(settings.warehouse), [4], DAY)[0].model_version == "v1"
    with pytest.raises(InputError, match=rf"run date 2020-01-01: no recommend.* expected {NEXT}"):
        recommended_to(Warehouse(settings.warehouse), [4], date(2020, 1, 1))


def test_a_run_overtaken_by_another_of_its_date_reports_that_it_lost_the_race(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = scored(tmp_path / "mine"), scored(tmp_path / "other", version="v2")
    real = publishing.replace_files

    def overtaken(*given: Any) -> None:
        real(*given)
        monkeypatch.setattr(publishing, "replace_files", real)
        publish(settings, DAY, other)

    monkeypatch.setattr(publishing, "replace_files", overtaken)
    with pytest.raises(PublishError, match="lost the race"):
        publish(settings, DAY, mine)
    rows = DeltaTable(Warehouse(settings.warehouse).table("recommendations")).to_pyarrow_table()
    assert set(rows["model_version"].to_pylist()) == {"v2"}
