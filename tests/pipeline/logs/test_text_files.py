"""CSV files and JSON lines as logs: what is read is what was written, or the file is refused."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipeline.bundles.bundle import Bundle
from pipeline.config.sections import LogSettings
from pipeline.errors import InputError, SchemaError, UnreadableFileError
from pipeline.logs import text_files
from pipeline.logs.log_content import read_footers
from pipeline.logs.log_files import list_log_files
from pipeline.logs.log_rows import check_log_files, log_rows
from pipeline.logs.text_files import text_format
from tests.helpers import scoring_cases
from tests.helpers.ingest_cases import NOON, TODAY, events_of, rows_of, settings_in, write_log
from tests.helpers.stages import ingest

NAMES = ["user_id", "item_id", "timestamp", "kind", "rating"]
MAPPED = LogSettings(event_type="kind", value="rating")
HEADER = b"user_id,item_id,timestamp\n"

# Without the control characters that neither format can hold, and with all that has to be quoted.
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=6) | (
    st.sampled_from(
        ["0012", "1,2", 'a"b', "'x'", "a;b\tc|d", "#1", " x ", "null", "a\nb", "{}", "\\"]
    )
)
rows_of_text = st.lists(
    st.tuples(
        st.none() | texts.filter(bool),
        st.none() | texts.filter(bool),
        st.none() | st.integers(0, 2**31),
        st.none() | texts.filter(bool),
        st.none() | st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False),
    ),
    min_size=1,
    max_size=10,
)
Rows = list[tuple[Any, ...]]


def as_csv(rows: Rows, delimiter: str = ",") -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
    writer.writerow(NAMES[: len(rows[0])])
    writer.writerows(rows)
    return out.getvalue().encode()


def as_json_lines(rows: Rows, *, ascii_only: bool = False) -> bytes:
    lines = (
        json.dumps(dict(zip(NAMES, row, strict=False)), ensure_ascii=ascii_only) for row in rows
    )
    return "".join(line + "\n" for line in lines).encode()


WRITERS: dict[str, Callable[[Rows], bytes]] = {
    "a.csv": as_csv,
    "b.CSV": lambda rows: b"\xef\xbb\xbf" + as_csv(rows, ";").replace(b"\n", b"\r\n", 1),
    "c.csv.gz": lambda rows: gzip.compress(as_csv(rows, "\t")),
    "d.jsonl": as_json_lines,
    "e.ndjson.gz": lambda rows: (
        gzip.compress(as_json_lines(rows[:1]))
        + gzip.compress(  # appended
            as_json_lines(rows[1:], ascii_only=True)
        )
    ),
    "f.json.gz": lambda rows: gzip.compress(as_json_lines(rows).rstrip(b"\n")),
}


def read(path: Path, logs: LogSettings = MAPPED) -> list[dict[str, Any]]:
    files = list_log_files(path)
    types = check_log_files(read_footers(files), logs, {})
    with log_rows(files, logs, types) as rows:
        return rows.read_all().to_pylist()


@pytest.mark.parametrize("name", WRITERS)
@given(rows=rows_of_text, block=st.sampled_from([1 << 9, 1 << 24]))
@hypothesis_settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_read_is_what_was_written(
    tmp_path: Path, name: str, rows: Rows, block: int
) -> None:
    path = tmp_path / name
    path.write_bytes(WRITERS[name](rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_files, "_BLOCK", block)  # smaller ones than the file
        found = read(path)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert [(row["user_id"], row["item_id"], row["event_type"]) for row in found] == [
        (user, item, kind) for user, item, _, kind, _ in rows
    ]
    assert [row["timestamp"] for row in found] == [
        None if row[2] is None else epoch + timedelta(seconds=row[2]) for row in rows
    ]
    assert [row["value"] for row in found] == [
        None if row[4] is None else float(row[4]) for row in rows
    ]
    assert [row["row"] for row in found] == list(range(len(rows)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.csv", "CSV"),
        ("dt=1/A.CSV.GZ", "CSV"),
        ("a.jsonl", "JSON lines"),
        ("a.ndjson.gz", "JSON lines"),
        ("a.json.gz", "JSON lines"),
        ("a.json", None),
        ("a.csv.parquet", None),
        ("acsv", None),
        ("a.csv/b", None),
    ],
)
def test_the_format_is_that_of_the_ending(name: str, expected: str | None) -> None:
    assert text_format(name) == expected


def test_all_formats_of_a_folder_are_one_log(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    time = int(NOON.timestamp())
    folder = write_log(settings, "z.parquet", [("u", "z", NOON)], user=pa.string()).parent
    for name, write in WRITERS.items():
        (folder / name).write_bytes(write([("u", name[0], time)]))
    (folder / "_bad.csv").write_bytes(b"\xff")
    (folder / "notes.json").write_bytes(b"\xff")
    (folder / "dt=1").mkdir()
    (folder / "dt=1" / "g.csv").write_bytes(as_csv([("u", "g", "2026-06-10T12:00:00Z")]))
    assert ingest(settings, TODAY).files == 8
    assert events_of(settings) == [("u", item, NOON) for item in "abcdefgz"]
    assert ingest(settings, TODAY).files == 0


# Ids


def test_ids_of_csv_are_text_as_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(HEADER + b"0012,1.0,1\n12,0x1,2\n")
    found = read(path, LogSettings())
    assert [(row["user_id"], row["item_id"]) for row in found] == [("0012", "1.0"), ("12", "0x1")]


def test_ids_of_csv_are_integers_where_the_others_are(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    folder = write_log(settings, "a.parquet", [(7, "x", NOON)]).parent
    time = str(int(NOON.timestamp())).encode()
    (folder / "b.csv").write_bytes(HEADER + b"12,x,%b\n8.0,x,%b\n,x,1\n" % (time, time))
    assert ingest(settings, TODAY).quarantined_by_reason == {"null user_id": 1}
    assert events_of(settings) == [(user, "x", NOON) for user in (7, 8, 12)]
    for odd in (b"0012", b"a", b"1e3", b"1.5", b"+1", str(2**63).encode()):
        (folder / "c.csv").write_bytes(HEADER + odd + b",x," + time + b"\n")
        with pytest.raises(SchemaError, match=r"c\.csv: an id of type string cannot be used"):
            ingest(settings, TODAY)
    assert events_of(settings) == [(user, "x", NOON) for user in (7, 8, 12)]


@pytest.mark.parametrize(
    ("first", "others", "kind"),
    [
        (1, [2, 3.0, "4", None], pa.int64()),
        (None, [2], pa.int64()),
        (1.0, [2], pa.int64()),
        ("1", [2, "007", None], pa.string()),
    ],
)
def test_ids_of_json_have_the_kind_of_the_first(
    tmp_path: Path, first: Any, others: list[Any], kind: pa.DataType
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(as_json_lines([(user, "x", 1) for user in (first, *others)]))
    files = list_log_files(path)
    types = check_log_files(read_footers(files), LogSettings(), {})
    assert (types.user, types.item) == (kind, pa.string())
    expected = pa.array([None if user is None else str(user) for user in (first, *others)])
    expected = (
        expected
        if kind == pa.string()
        else pa.array([None if user is None else int(float(user)) for user in (first, *others)])
    )
    assert [row["user_id"] for row in read(path, LogSettings())] == expected.to_pylist()


def test_a_word_among_numbers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(as_json_lines([(1, "x", 1), ("a", "x", 1)]))
    with pytest.raises(SchemaError, match="the text 'a', where ids are integers"):
        read(path, LogSettings())


def test_times_are_numbers_of_the_unit_or_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    times = ["1781092800123", "2026-06-10 12:00:00", "2026-06-10T12:00:00+02:00", "", "yesterday"]
    path.write_bytes(as_csv([("u", "x", time) for time in times]))
    found = read(path, LogSettings(timestamp_unit="ms", time_zone="Asia/Tokyo"))
    assert [row["timestamp"] for row in found] == [
        NOON + timedelta(milliseconds=123),
        NOON - timedelta(hours=9),
        NOON - timedelta(hours=2),
        None,
        None,
    ]


@pytest.mark.parametrize(
    ("text", "hours"),
    [
        ("2026-06-10 12:00:00Z", 0),
        ("2026-06-10T12:00:00.000 UTC", 0),
        ("2026-06-10 12:00:00 GMT", 0),
        ("2026-06-10 12:00:00 utc ", 0),
        ("2026-06-10 12:00:00 +0530", 5.5),
        ("2026-06-10 12:00+05:30", 5.5),
        ("2026-06-10 12:00:00 -03", -3),
        ("2026-06-10 12:00:00 Europe/Berlin", 2),
        ("2026-06-10 12:00:00 America/Argentina/Buenos_Aires", -3),
        ("2026-06-10 12:00:00 Etc/GMT+3", -3),
        ("2026-06-10 12:00:00", 9),
        (" 2026/06/10 12:00 ", 9),
        ("1.7810928e+09", 0),
        ("+1781092800", 0),
        ("2026-06-10 12:00:00+05:30:00", None),
        ("2026-06-10 12:00:00+99:99", None),
        ("2026-06-10 12:00:00 PM", None),
        ("2026-06-10 12:00:00 EST", None),  # of which continent?
        ("2026-06-10 12:00:00 PST", None),  # that there is another in summer is not always known
        ("2026-06-10 12:00:00 Nowhere/Land", None),
        ("2026-06-10 12:00:00Z[Europe/Berlin]", None),
        ("2026-06-10 12:00:00 x", None),
    ],
)
def test_a_zone_in_a_time_counts_and_an_unknown_one_is_no_time(
    tmp_path: Path, text: str, hours: float | None
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(as_csv([("u", "x", text)]))
    (found,) = read(path, LogSettings(time_zone="Asia/Tokyo"))
    expected = None if hours is None else NOON - timedelta(hours=hours)
    assert found["timestamp"] == expected


def test_an_empty_value_is_null(tmp_path: Path) -> None:
    rows = [("", "x", "2026-06-10"), ("u", "", "2026-06-10"), ("u", "x", "")]
    columns = ("user_id", "item_id", "timestamp")
    for name, content in {"a.csv": as_csv(rows), "a.jsonl": as_json_lines(rows)}.items():
        (tmp_path / name).write_bytes(content)
        found = read(tmp_path / name, LogSettings())
        assert [[row[column] is None for column in columns] for row in found] == [
            [n == place for n in range(3)] for place in range(3)
        ]


# Files without rows, and damaged ones


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("b.csv", b""),
        ("b.csv", b"\n\n"),
        ("b.csv", b"anything\n"),
        ("b.csv.gz", gzip.compress(b"", mtime=0)),  # the same name in every process
        ("b.jsonl", b""),
        ("b.jsonl", b"\xef\xbb\xbf\n"),
    ],
)
def test_files_without_rows_are_passed_over(tmp_path: Path, name: str, content: bytes) -> None:
    settings = settings_in(tmp_path)
    folder = write_log(settings, "a.parquet", [(1, "x", NOON)]).parent
    (folder / name).write_bytes(content)
    result = ingest(settings, TODAY)
    assert (result.files, result.rows, result.added) == (2, 1, 1)
    assert ingest(settings, TODAY).files == 0


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


GOOD_CSV = HEADER + b"1,x,1781092800\n" * 50
GOOD_JSON = as_json_lines([(1, "x", 1781092800)] * 50)
DAMAGED = {
    "too few values": ("b.csv", GOOD_CSV + b"1,x\n"),
    "too many values": ("b.csv", GOOD_CSV + b"1,x,2,3\n"),
    "an open quote": ("b.csv", GOOD_CSV + b'"1,x,2\n'),
    "no UTF-8": ("b.csv", GOOD_CSV + b"1,\xff,2\n"),
    "no gzip": ("b.csv.gz", GOOD_CSV),
    "a cut gzip": ("b.csv.gz", gzip.compress(GOOD_CSV)[:-12]),
    "a wrong checksum": ("b.csv.gz", flipped(gzip.compress(GOOD_CSV), -6)),
    "a cut line": ("b.jsonl", GOOD_JSON[:-5]),
    "a word": ("b.jsonl", GOOD_JSON + b"oops\n"),
    "a list": ("b.jsonl", GOOD_JSON + b"[1]\n"),
    "two objects": ("b.jsonl", GOOD_JSON + b"{} {}\n"),
    "no UTF-8 in JSON": ("b.jsonl", GOOD_JSON + b'{"user_id":"\xff"}\n'),
    "a cut gzip of JSON": ("b.json.gz", gzip.compress(GOOD_JSON)[:-1]),
}


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize("block", [1 << 9, 1 << 24])
def test_a_damaged_file_is_refused_and_nothing_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str, block: int
) -> None:
    monkeypatch.setattr(text_files, "_BLOCK", block)  # so that the damage is found late
    settings = settings_in(tmp_path)
    name, content = DAMAGED[damage]
    folder = write_log(settings, "a.parquet", [(1, "x", NOON)]).parent
    (folder / name).write_bytes(content)
    with pytest.raises(
        UnreadableFileError, match=r"/b\..*: not a readable (CSV|JSON lines) file"
    ) as raised:
        ingest(settings, TODAY)
    assert raised.value.exit_code == 2
    assert "\n" not in str(raised.value)
    assert rows_of(settings, "interactions") == []


def test_no_cut_of_a_compressed_file_goes_unnoticed(tmp_path: Path) -> None:
    whole = gzip.compress(GOOD_CSV)
    path = tmp_path / "a.csv.gz"
    for end in range(1, len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(UnreadableFileError):
            read(path, LogSettings())
    path.write_bytes(whole)
    assert len(read(path, LogSettings())) == 50


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"user_id,item,timestamp\n1,x,2\n"),
        ("a.jsonl", b'{"user_id": 1, "item": "x", "timestamp": 2}\n'),
    ],
)
def test_a_missing_column_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SchemaError, match=r"no column 'item_id'.*found columns .*item"):
        read(tmp_path, LogSettings())


def test_a_repeated_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"user_id,user_id,item_id,timestamp\n1,2,x,3\n")
    with pytest.raises(SchemaError, match="column 'user_id' is there twice"):
        read(tmp_path, LogSettings())


def test_odd_names_of_columns_are_found(tmp_path: Path) -> None:
    logs = LogSettings(user_id="a/b~c", item_id="d.e", timestamp="f $'g\"")
    row = {"a/b~c": "u", "d.e": "x", "f $'g\"": 1, "d": {"e": "no"}}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    (found,) = read(tmp_path, logs)
    assert (found["user_id"], found["item_id"], found["timestamp"].year) == ("u", "x", 1970)


def test_a_moved_copy_is_known_and_another_file_is_not(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    folder = Path(settings.logs.path)
    (folder / "one").mkdir(parents=True)
    here = folder / "one" / "a.csv"
    here.write_bytes(as_csv([("u", "x", int(NOON.timestamp()))]))
    first = settings.model_copy(update={"logs": LogSettings(path=str(folder / "one"))})
    assert ingest(first, TODAY).added == 1
    (folder / "two").mkdir()
    there = here.rename(folder / "two" / "a.csv")
    second = settings.model_copy(update={"logs": LogSettings(path=str(folder / "two"))})
    assert ingest(second, TODAY).files == 0
    here.write_bytes(as_csv([("u", "y", int(NOON.timestamp()))]))
    assert there.exists()
    assert ingest(first, TODAY).added == 1


# fearec-score


@pytest.mark.parametrize("name", WRITERS)
def test_scores_are_those_of_parquet(tiny_bundle: Bundle, tmp_path: Path, name: str) -> None:
    log = scoring_cases.events(scoring_cases.random_histories(9))
    scoring_cases.write_log(tmp_path / "log.parquet", log)
    (tmp_path / name).write_bytes(
        WRITERS[name]([(user, item, time.isoformat()) for user, item, time in log])
    )
    of_parquet = scoring_cases.run(tmp_path / "log.parquet", tiny_bundle, tmp_path / "expected")
    of_text = scoring_cases.run(tmp_path / name, tiny_bundle, tmp_path / "found")
    assert of_text.n_users == of_parquet.n_users == 9
    expected, found = (pq.read_table(tmp_path / each) for each in ("expected", "found"))
    assert found.drop_columns(["generated_at"]).equals(expected.drop_columns(["generated_at"]))


@pytest.mark.parametrize("damage", ["too few values", "a cut gzip", "a word"])
def test_scoring_can_leave_damaged_files_out(
    tiny_bundle: Bundle, tmp_path: Path, damage: str
) -> None:
    name, content = DAMAGED[damage]
    scoring_cases.write_log(tmp_path / "in" / "a.parquet", [("7", "item1", scoring_cases.START)])
    (tmp_path / "in" / name).write_bytes(content)
    with pytest.raises(InputError, match="not a readable"):
        scoring_cases.run(tmp_path / "in", tiny_bundle, tmp_path / "out")
    skipping: dict[str, Any] = {"skip_bad_files": True}
    scored = scoring_cases.run(tmp_path / "in", tiny_bundle, tmp_path / "out", **skipping)
    assert scored.skipped_files == (str(tmp_path / "in" / name),)
    assert scored.n_users == 1


def test_sequences_are_parquet_alone(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"user_id": 1, "item_ids": ["item1"]}\n')
    with pytest.raises(SchemaError, match="not usable as sequences"):
        scoring_cases.run(tmp_path / "a.jsonl", tiny_bundle, tmp_path / "out")
