"""Import: all formats, all kinds of bad lines, and outputs that are complete or absent."""

import codecs
import csv
import errno
import gzip
import io
import os
import signal
import subprocess
import sys
import tempfile
import unicodedata
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import pipeline.logs.imports.importer
import pipeline.logs.imports.text_lines
from flows.cli.main import app
from pipeline.config.settings import Settings
from pipeline.errors import (
    BusyError,
    ConfigError,
    FearecError,
    InputError,
    SchemaError,
    StorageError,
)
from pipeline.logs.imports.importer import BAD_LINES_FILE, Imported, import_logs
from pipeline.logs.imports.options import Columns
from pipeline.logs.log_files import list_log_files
from tests.helpers.prepared_folders import sequences
from tests.helpers.stages import ingest, prepare

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
PLAIN = Columns("user", "item", "time")


def seconds(time: datetime) -> int:
    return int(time.timestamp())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "given"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "logs"


def rows(imported: Imported) -> list[tuple[Any, Any, datetime]]:
    """The rows that a nightly run reads, file by file."""
    found: list[tuple[Any, Any, datetime]] = []
    for log in list_log_files(imported.logs):
        table = pq.read_table(log.path, partitioning=None)
        assert table.column_names == ["user_id", "item_id", "timestamp"]
        assert table.schema.field("timestamp").type == pa.timestamp("us", tz="UTC")
        found += zip(*(column.to_pylist() for column in table.columns), strict=True)
    return found


def left_out(imported: Imported) -> list[tuple[int, str, str]]:
    assert imported.bad_lines == imported.logs / BAD_LINES_FILE
    with imported.bad_lines.open(newline="", encoding="utf-8") as bad:
        header, *lines = csv.reader(bad)
    assert header == ["line", "reason", "text"]
    return [(int(line), reason, text) for line, reason, text in lines]


def is_alone(given: Path) -> bool:
    return [path.name for path in given.parent.iterdir()] == [given.name]


def test_recbole(file: Path, out: Path):
    times = [NOON + timedelta(days=1), NOON, NOON + timedelta(hours=1)]
    lines = [f"{user}\t{7 - user}\t3\t{seconds(time)}\n" for user, time in enumerate(times, 1)]
    file.write_text(HEADER + "".join(lines))
    imported = import_logs(file, out, "recbole")
    assert rows(imported) == [(2, 5, times[1]), (3, 4, times[2]), (1, 6, times[0])]
    assert sorted(path.name for path in out.iterdir()) == ["dt=2026-06-01", "dt=2026-06-02"]
    assert imported == Imported(
        logs=out,
        n_users=3,
        n_items=3,
        n_interactions=3,
        n_days=2,
        first_event=times[1],
        last_event=times[0],
        user_ids="integers",
        item_ids="integers",
        n_bad_lines=0,
        bad_lines=None,
    )
    assert imported.run_date == date(2026, 6, 3)


def test_recbole_by_other_names_and_in_other_order(file: Path, out: Path):
    file.write_text(
        "when:float\tgenre:token_seq\tsku:token\tcustomer:token\n"
        f'{seconds(NOON)}500.0\tAction "Drama\tx\t5\n'
    )
    named = Columns("customer", "sku", "when", "ms")
    expected = NOON + timedelta(microseconds=500_000)
    assert rows(import_logs(file, out, "recbole", named)) == [(5, "x", expected)]


@pytest.mark.parametrize(
    "text",
    [
        "196\t242\t3\t{0}\n22\t377\t1\t{1}\n",
        "196::242::3::{0}\n22::377::1::{1}\n",
        "userId,movieId,rating,timestamp\n196,242,3.0,{0}\n22,377,1.0,{1}\n",
        '"userId","movieId","rating","timestamp"\r\n196,242,3.0,{0}\r\n"22",377,1.0,"{1}"',
    ],
    ids=["u.data", "ratings.dat", "ratings.csv", "quoted"],
)
def test_the_kind_of_movielens_file_is_found_from_its_content(file: Path, out: Path, text: str):
    later = NOON + timedelta(seconds=1)
    file.write_text(text.format(seconds(NOON), seconds(later)), newline="")
    imported = import_logs(file, out, "movielens")
    assert rows(imported) == [(196, 242, NOON), (22, 377, later)]


@pytest.mark.parametrize("text", ["a b c\n", "movieId,title,genres\n1,Toy Story,Comedy\n"])
def test_other_files_are_not_movielens(file: Path, out: Path, text: str):
    file.write_text(text)
    with pytest.raises(SchemaError, match=r"line 1: not a file of MovieLens ratings.*u\.data"):
        import_logs(file, out, "movielens")
    assert is_alone(file)


def test_sequences(file: Path, out: Path):
    file.write_text("u1 5 6  5\nu2\t7 \n")
    imported = import_logs(file, out, "sequences")
    start = datetime(2000, 1, 1, tzinfo=UTC)
    at = [start + timedelta(seconds=n) for n in range(3)]
    assert rows(imported) == [
        ("u1", 5, at[0]),
        ("u2", 7, at[0]),
        ("u1", 6, at[1]),
        ("u1", 5, at[2]),
    ]
    assert (imported.n_days, imported.run_date) == (1, date(2000, 1, 2))
    assert (imported.user_ids, imported.item_ids) == ("strings", "integers")


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        (
            f"time;x;item;user\n{seconds(NOON)};;b;a\n",
            Columns("user", "item", "time", delimiter=";"),
        ),
        (f"a\tb\t{seconds(NOON)}000\n", Columns("1", "2", "3", "ms", r"\t", False)),
        ("user,item,time\na,b,2026-06-01T12:00:00Z\n", Columns("user", "item", "time", "iso")),
        ("user,item,time\na,b,2026-06-01 14:00:00+02\n", Columns("user", "item", "time", "iso")),
        ("user,item,time\na,b,2026-06-01 12:00\n", Columns("user", "item", "time", "iso")),
        (f"user||item||time\na||b||{seconds(NOON)}\n", Columns("user", "item", "time", None, "||")),
        (f"user^item^time\na^b^{seconds(NOON)}\n", Columns("user", "item", "time", None, "^")),
        (f"user]item]time\na]b]{seconds(NOON)}\n", Columns("user", "item", "time", None, "]")),
        (f" user, item ,time\n\na,b, {seconds(NOON)}.0\n\n", PLAIN),
        (f"user,item,time\r\na,b,{seconds(NOON):.9e}\r\n", PLAIN),
        (f"\ufeffuser,item,time\na,b,{seconds(NOON)}", PLAIN),
        (f'"user",item,"time"\n"a","b","{seconds(NOON)}"\n', PLAIN),
    ],
)
def test_csv_by_flags(file: Path, out: Path, text: str, columns: Columns):
    file.write_text(text, newline="", encoding="utf-8")
    assert rows(import_logs(file, out, "csv", columns)) == [("a", "b", NOON)]


@pytest.mark.parametrize(
    ("ids", "kind", "kept"),
    [
        (["1", "-2", "0"], "integers", [1, -2, 0]),
        (["9223372036854775807", "1", "2"], "integers", [2**63 - 1, 1, 2]),
        (["9223372036854775808", "1", "2"], "strings", None),
        (["1", "02", "3"], "strings", None),
        (["1", "2.0", "3"], "strings", None),
        (["1", " 2", "3"], "strings", None),
        (["+1", "1e3", "-0"], "strings", None),
        (["é", "1", 'a "b"'], "strings", None),
    ],
)
def test_ids_are_integers_only_where_all_are_written_so(
    file: Path, out: Path, ids: list[str], kind: str, kept: list[int] | None
):
    lines = [f"{id_}\t{id_}\t1\t{seconds(NOON)}\n" for id_ in ids]
    file.write_text(HEADER + "".join(lines), encoding="utf-8")
    imported = import_logs(file, out, "recbole")
    assert (imported.user_ids, imported.item_ids) == (kind, kind)
    assert [row[0] for row in rows(imported)] == [row[1] for row in rows(imported)] == (kept or ids)


@pytest.mark.parametrize(
    ("kind", "line", "what", "found"),
    [
        ("recbole", b"1\t2\t3", "wrong number of fields", "3 in"),
        ("recbole", b"1\t2\t3\t{0}\t", "wrong number of fields", "5 in"),
        ("recbole", b"\t2\t3\t{0}", "the user id is empty", "2"),
        ("recbole", b"1\t \t3\t{0}", "the item id is empty", "1"),
        ("recbole", b"\xc2\xa0\t2\t3\t{0}", "the user id is empty", "2"),
        ("recbole", b"1\t2\t3\t", "the timestamp is not a time", "''"),
        ("recbole", b"1\t2\t3\tnan", "the timestamp is not a time", "'nan'"),
        ("recbole", b"1\t2\t3\tinf", "the timestamp is not a time", "'inf'"),
        ("recbole", b"1\t2\t3\t-inf", "the timestamp is not a time", "'-inf'"),
        ("recbole", b"1\t2\t3\t1e400", "the timestamp is not a time", "'1e400'"),
        ("recbole", b"1\t2\t3\tnoon", "the timestamp is not a time", "'noon'"),
        ("recbole", b"1\t2\t3\t{0}000", "the timestamp is not a time", "000'"),  # milliseconds
        ("recbole", b"1\t2\t3\t999999999999", "the timestamp is not a time", "99'"),
        ("recbole", b"1\t2\t3\t-999999999999", "the timestamp is not a time", "99'"),
        ("recbole", b"1\t2\t3\t0", "the timestamp is not a time", "'0'"),
        ("recbole", b"1\t2\t3\t2026-06-01", "the timestamp is not a time", "'2026-06-01'"),
        ("recbole", b"caf\xe9\t2\t3\t{0}", "not UTF-8 text", "xE9"),
        ("csv", b'"1,2,{0}', "a double quote out of place", '"1'),
        ("csv", b'"1"x,2,{0}', "a double quote out of place", '"1"x'),
        ("csv", b'1"x,2,{0}', "a double quote out of place", '1"x'),
        ("csv", b'1,2",{0}', "a double quote out of place", '2"'),
        ("csv", b'1, "2",{0}', "a double quote out of place", ' "2"'),
        ("csv", b'"",2,{0}', "the user id is empty", '""'),
        ("csv", b"1,2,3,{0}", "wrong number of fields", "4 in"),
        ("iso", b"1,2,9999-12-31", "the timestamp is not a time", "'9999-12-31'"),
        ("iso", b"1,2,infinity", "the timestamp is not a time", "'infinity'"),
        ("iso", b"1,2,{0}", "the timestamp is not a time", "'"),
        ("iso", b"1,2,2026-02-30", "the timestamp is not a time", "'2026-02-30'"),
        ("iso", b"1,2,2026-06-01 12:00:00 PM", "the timestamp is not a time", "PM'"),
        ("sequences", b"7", "no item", "'7'"),
        ("sequences", b"   ", "no item", "' "),
        ("sequences", b"2 9 9", "the user has an earlier line", "on line 3"),
        ("movielens", b"1\t2\t3", "wrong number of fields", "3 in"),
    ],
)
def test_a_bad_line(file: Path, out: Path, kind: Any, line: bytes, what: str, found: str):
    time = str(seconds(NOON)).encode()
    bad = line.replace(b"{0}", time)
    good = {
        "recbole": [HEADER.encode().strip(), b"", b"1\t2\t3\t{0}", b"2\t2\t3\t{0}"],
        "csv": [b"user,item,time", b"", b"1,2,{0}", b"2,2,{0}"],
        "iso": [b"user,item,time", b"", b"1,2,2026-06-01T12:00:00Z", b"2,2,2026-06-01T12:00:00Z"],
        "sequences": [b"1 2", b"", b"2 2", b"3 4"],
        "movielens": [b"1\t2\t3\t{0}", b"", b"1\t2\t3\t{0}", b"2\t2\t3\t{0}"],
    }[kind]
    columns = {"csv": PLAIN, "iso": Columns("user", "item", "time", "iso")}.get(kind, Columns())
    n_good = {"sequences": 3, "movielens": 3}.get(kind, 2)  # a header is the first line
    kind = "csv" if kind == "iso" else kind
    file.write_bytes(b"\n".join([*good, bad, b""]).replace(b"{0}", time))
    with pytest.raises(InputError) as caught:
        import_logs(file, out, kind, columns)
    error = caught.value
    assert error.exit_code == 2
    assert error.where == f"{file}, line 5"
    assert error.what.startswith(what)
    assert found in error.found
    assert error.expected
    assert error.remedy == "1 line is bad; --skip-bad-lines keeps the others."
    assert is_alone(file)

    imported = import_logs(file, out, kind, columns, skip_bad_lines=True)
    ((number, reason, text),) = left_out(imported)
    assert (number, reason) == (5, f"{error.what}; expected {error.expected}")
    assert text == (
        bad.decode() if what != "not UTF-8 text" else rf"caf\xE9\x092\x093\x09{seconds(NOON)}"
    )
    assert imported.n_bad_lines == 1
    assert imported.n_interactions == len(rows(imported)) == n_good


def test_bad_lines_are_all_counted_and_the_first_is_named(file: Path, out: Path):
    file.write_text(f"1\t2\t3\t{seconds(NOON)}\n\n1\t2\n3\n\t\t\t\n")
    with pytest.raises(InputError, match=r"line 3: wrong number.*3 lines are bad"):
        import_logs(file, out, "movielens")
    imported = import_logs(file, out, "movielens", skip_bad_lines=True)
    assert [line for line, _, _ in left_out(imported)] == [3, 4, 5]


@pytest.mark.parametrize("skip", [False, True])
def test_no_line_is_good(file: Path, out: Path, skip: bool):
    file.write_text(f"user,item,time\n1,2,{seconds(NOON)}000\n1,3,{seconds(NOON)}000\n")
    with pytest.raises(InputError, match=r"line 2: the timestamp.*No line is good"):
        import_logs(file, out, "csv", PLAIN, skip_bad_lines=skip)
    assert is_alone(file)


@pytest.mark.parametrize(
    ("kind", "content", "error", "message"),
    [
        ("recbole", b"", InputError, "the file is empty"),
        ("sequences", codecs.BOM_UTF8 + b"\n \r\n", InputError, "the file is empty"),
        ("recbole", HEADER.encode(), InputError, "no interaction; found a header only"),
        ("csv", b"user,item,time", InputError, "no interaction; found a header only"),
        ("recbole", b"1\t2\t3\t4\n", SchemaError, "line 1: not the header of a RecBole file"),
        (
            "recbole",
            b"user_id:token\titem_id:token\trating:float\n1\t2\t3\n",
            SchemaError,
            "no column 'timestamp'; found columns 'user_id', 'item_id', 'rating'. Name the right "
            "column with --timestamp",
        ),
        ("csv", b"user,user,item,time\n", SchemaError, "several columns 'user'"),
        ("csv", b"\xff\xfeu\0s\0e\0r\0", InputError, "line 1: not UTF-8 text"),
        (
            "csv",
            b"PK\x03\x04\0\n",
            SchemaError,
            r"no column 'user'; found columns 'PK\x03\x04\x00'",
        ),
    ],
)
def test_files_of_another_format(
    file: Path, out: Path, kind: Any, content: bytes, error: type[FearecError], message: str
):
    file.write_bytes(content)
    with pytest.raises(error) as caught:
        import_logs(file, out, kind, PLAIN if kind == "csv" else Columns(), skip_bad_lines=True)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2
    assert is_alone(file)


def test_a_file_that_is_not_there_or_is_a_folder(tmp_path: Path, out: Path):
    with pytest.raises(InputError, match="no such file"):
        import_logs(tmp_path / "none", out, "recbole")
    with pytest.raises(InputError, match=r"cannot be read; found .*directory"):
        import_logs(tmp_path, out, "recbole")
    assert not out.exists()


def test_compressed_files(tmp_path: Path, out: Path):
    text = "".join(f"{n}\t2\t3\t{seconds(NOON)}\n" for n in range(500)).encode()
    whole = tmp_path / "u.data.gz"
    whole.write_bytes(gzip.compress(text[:2000]) + gzip.compress(text[2000:]))
    assert [user for user, _, _ in rows(import_logs(whole, out, "movielens"))] == list(range(500))
    torn = tmp_path / "torn.gz"
    torn.write_bytes(gzip.compress(text)[:-20])
    with pytest.raises(InputError, match=r"torn\.gz: cannot be read; found"):
        import_logs(torn, tmp_path / "other", "movielens")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("kind", "columns", "message"),
    [
        ("movielens", Columns(user="a"), "--user: not for the format movielens"),
        ("sequences", Columns(unit="s", header=False), "--timestamp-unit, --no-header"),
        ("recbole", Columns(delimiter=","), "--delimiter: not for the format recbole"),
        ("csv", Columns(delimiter='"'), "--delimiter: cannot be a delimiter"),
        ("csv", Columns(delimiter=""), "--delimiter: cannot be a delimiter"),
        (
            "csv",
            Columns("1", "1", "3", header=False, delimiter="\t"),
            "the same column given twice",
        ),
        ("csv", Columns("1", "2", header=False), "--no-header: without a header"),
    ],
)
def test_flags_that_do_not_fit(file: Path, out: Path, kind: Any, columns: Columns, message: str):
    file.write_text(HEADER)
    with pytest.raises(ConfigError) as caught:
        import_logs(file, out, kind, columns)
    assert message in str(caught.value)


def test_a_folder_that_is_not_empty_is_an_error(file: Path, out: Path):
    file.write_text("1 2\n")
    out.mkdir()
    import_logs(file, out, "sequences")
    with pytest.raises(ConfigError, match="there already"):
        import_logs(file, out, "sequences")
    with pytest.raises(ConfigError, match="there already"):
        import_logs(file, file, "sequences")


def test_only_a_local_folder_is_written(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    for uri in ("s3://bucket/y", "file:///y"):
        with pytest.raises(ConfigError, match=r"\w+:/.*y: the logs are written to a local folder"):
            import_logs(file, Path(uri), "movielens")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("long", ["x" * 250, "x" * 300, "x" * 300 + "/logs"])
def test_a_folder_with_too_long_a_name_is_an_error(file: Path, long: str):
    file.write_text(f"1\t2\t3\t{seconds(NOON)}\n")
    with pytest.raises(StorageError, match="File name too long"):
        import_logs(file, file.parent / long, "movielens")
    assert is_alone(file)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look everywhere")
def test_a_folder_under_one_without_permission_is_an_error(file: Path, out: Path):
    file.write_text(f"1\t2\t3\t{seconds(NOON)}\n")
    out.mkdir(mode=0)
    with pytest.raises(StorageError, match="Permission denied"):
        import_logs(file, out / "below", "movielens")
    out.chmod(0o700)


def test_an_empty_folder_is_replaced_and_a_link_to_one_stays_a_link(file: Path, out: Path):
    file.write_text(f"1\t2\t3\t{seconds(NOON)}\n")
    out.mkdir()
    link = out.with_name("link")
    link.symlink_to(out)
    assert rows(import_logs(file, link, "movielens")) == [(1, 2, NOON)]
    assert link.is_symlink()
    assert [path.name for path in out.iterdir()] == ["dt=2026-06-01"]


def fail_if_called(doing: str, done: int, total: int) -> None:
    pytest.fail("the work began")


def test_the_current_folder_is_an_error_before_the_work(
    file: Path, out: Path, monkeypatch: pytest.MonkeyPatch
):
    file.write_text(f"1\t2\t3\t{seconds(NOON)}\n")
    out.mkdir()
    monkeypatch.chdir(out)
    for current in (Path(), Path("../logs"), out):
        with pytest.raises(ConfigError, match=r"cannot be replaced.*found the current folder"):
            import_logs(file, current, "movielens", progress=fail_if_called)
    assert not list(out.iterdir())


def test_a_mount_point_is_an_error_before_the_work(
    file: Path, out: Path, monkeypatch: pytest.MonkeyPatch
):
    file.write_text(f"1\t2\t3\t{seconds(NOON)}\n")
    out.mkdir()
    original = Path.rename

    def rename(path: Path, target: Path) -> Path:
        if out in (path, target):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        return original(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(ConfigError, match=r"cannot be replaced.*mount point.*busy"):
        import_logs(file, out, "movielens", progress=fail_if_called)
    assert sorted(path.name for path in out.parent.iterdir()) == ["given", "logs"]


def test_a_quoted_line_break_makes_no_event_of_its_second_half(file: Path, out: Path):
    file.write_text(f'user,item,time\n1,2,{seconds(NOON)}\n"a\nb",5,{seconds(NOON)}\n')
    imported = import_logs(file, out, "csv", PLAIN, skip_bad_lines=True)
    assert rows(imported) == [(1, 2, NOON)]
    assert [line for line, _, _ in left_out(imported)] == [3, 4]


def test_a_stray_quote_makes_only_its_own_line_bad(file: Path, out: Path):
    # DuckDB's CSV reader drops the rest of the file here.
    lines = [f"{n},item,{seconds(NOON)}" for n in range(20_000)]
    lines[10_000] = f'"10000,item,{seconds(NOON)}'
    file.write_text("\n".join(["user,item,time", *lines]))
    imported = import_logs(file, out, "csv", PLAIN, skip_bad_lines=True)
    assert [line for line, _, _ in left_out(imported)] == [10_002]
    assert [user for user, _, _ in rows(imported)] == [n for n in range(20_000) if n != 10_000]


def test_line_ends_may_be_mixed_and_ids_may_hold_any_other_character(file: Path, out: Path):
    time = seconds(NOON)
    file.write_bytes(f"a\t1\t3\t{time}\r\nb\rc\t2\t3\t{time}\nd\0e\t3\t3\t{time}\r\n".encode())
    assert [row[:2] for row in rows(import_logs(file, out, "movielens"))] == [
        ("a", 1),
        ("b\rc", 2),
        ("d\0e", 3),
    ]


def test_a_huge_line(file: Path, out: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pipeline.logs.imports.text_lines, "_BLOCK", 1 << 20)
    time, user = seconds(NOON), "x" * 5_000_000
    file.write_text(f"1\t2\t3\t{time}\n{user}\t2\t3\t{time}\n{user}\n3\t2\t3\t{time}\n")
    imported = import_logs(file, out, "movielens", skip_bad_lines=True)
    assert [row[0] for row in rows(imported)] == ["1", user, "3"]
    assert imported.bad_lines is not None
    _, line = imported.bad_lines.read_text().splitlines()
    assert (line.split(",")[0], line.rpartition(",")[2]) == ("3", user)


def test_a_header_with_quotes_after_spaces(file: Path, out: Path):
    file.write_text(f'user, "item", "time"\na,b,{seconds(NOON)}\n')
    assert rows(import_logs(file, out, "csv", PLAIN)) == [("a", "b", NOON)]


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(28, "No space left on device"), StorageError),
        (duckdb.OutOfMemoryException("full"), FearecError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_nothing_is_left_of_an_import_that_failed(
    file: Path, out: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, raised: Any
):
    file.write_text(f"1\t2\t3\t{seconds(NOON)}\n2\t2\t3\t{seconds(NOON) + 86_400}\n")

    def fail(doing: str, done: int, total: int) -> None:
        if doing == "writing":
            assert [path.name for path in file.parent.glob(".*")] == [".logs.importing"]
            raise error

    with pytest.raises(raised):
        import_logs(file, out, "movielens", progress=fail)
    assert is_alone(file)


def test_two_imports_into_one_folder(file: Path, out: Path):
    file.write_text(f"1\t2\t3\t{seconds(NOON)}\n")
    refused = []

    def second(doing: str, done: int, total: int) -> None:
        if doing == "reading":
            with pytest.raises(BusyError, match="another import") as caught:
                import_logs(file, out, "movielens")
            refused.append(caught.value.exit_code)

    assert rows(import_logs(file, out, "movielens", progress=second)) == [(1, 2, NOON)]
    assert refused == [1]


def test_a_killed_import_leaves_no_logs_and_can_be_run_again(file: Path, out: Path):
    file.write_text(f"1\t2\t3\t{seconds(NOON)}\n")
    script = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from pipeline.logs.imports.importer import import_logs\n"
        "def kill(doing, done, total):\n"
        "    if doing == 'writing': os.kill(os.getpid(), signal.SIGKILL)\n"
        "import_logs(Path(sys.argv[1]), Path(sys.argv[2]), 'movielens', progress=kill)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script, str(file), str(out)],
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])},
    )
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    assert rows(import_logs(file, out, "movielens")) == [(1, 2, NOON)]
    assert sorted(path.name for path in file.parent.iterdir()) == ["given", "logs"]


IDS = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), min_size=1).filter(
    # An id of spaces alone is empty.
    lambda text: any(unicodedata.category(character) != "Zs" for character in text)
)
EVENTS = st.lists(
    st.tuples(IDS, IDS, st.integers(631_152_000, 2_000_000_000), st.text("ab,\"; '", max_size=5)),
    min_size=1,
    max_size=30,
)
QUICK = hypothesis_settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@QUICK
@given(events=EVENTS, delimiter=st.sampled_from(",;\t|^]-\\ "), block=st.integers(1, 200))
def test_any_csv_comes_back_as_it_was(
    monkeypatch: pytest.MonkeyPatch, events: list[Any], delimiter: str, block: int
):
    monkeypatch.setattr(pipeline.logs.imports.text_lines, "_BLOCK", max(block, 100))
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(["user", "note", "item", "time"])
    writer.writerows([user, note, item, time] for user, item, time, note in events)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "given.csv"
        file.write_bytes(text.getvalue().encode())
        columns = Columns("user", "item", "time", delimiter=delimiter)
        imported = import_logs(file, Path(folder) / "logs", "csv", columns)
        found = [(str(user), str(item), seconds(time)) for user, item, time in rows(imported)]
        days = len(list(imported.logs.iterdir()))
    # By time, and within one time as in the file: Python's sort is stable.
    expected = sorted(events, key=lambda event: event[2])
    assert found == [event[:3] for event in expected]
    assert days == imported.n_days == len({time // 86_400 for _, _, time, _ in events})
    assert imported.n_users == len({user for user, *_ in events})
    assert imported.n_items == len({item for _, item, *_ in events})


FIELDS = st.sampled_from(
    ["1", "22", "é", "", " ", '"', '"3"', '""', '"a,b"', "\r", "\0", "\t", ","]
)
LINES = st.lists(
    st.one_of(
        st.tuples(FIELDS, FIELDS, st.sampled_from(["1780315200", "0", "noon", ""])).map(",".join),
        st.lists(FIELDS, max_size=5).map("".join),
        st.just("1,2,1780315200"),
    ).map(str.encode)
    | st.binary(max_size=8).map(lambda line: line.replace(b"\n", b"")),
    max_size=20,
)


@QUICK
@given(
    lines=LINES,
    newline=st.sampled_from([b"\n", b"\r\n"]),
    delimiter=st.sampled_from(",;"),
    block=st.integers(40, 200),
)
def test_every_line_is_either_kept_or_bad(
    monkeypatch: pytest.MonkeyPatch, lines: list[bytes], newline: bytes, delimiter: str, block: int
):
    monkeypatch.setattr(pipeline.logs.imports.text_lines, "_BLOCK", block)
    lines = [*lines, b"1,2,1780315200"]  # a good one, or there is an error
    text = newline.join([b"user,item,time", *lines]).replace(b",", delimiter.encode())
    columns = Columns("user", "item", "time", delimiter=delimiter)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "given.csv"
        file.write_bytes(text)
        imported = import_logs(file, Path(folder) / "logs", "csv", columns, skip_bad_lines=True)
        bad = left_out(imported) if imported.bad_lines else []
        n_rows = len(rows(imported))
    full = {n for n, line in enumerate(text.split(b"\n")[1:], 2) if line.removesuffix(b"\r")}
    assert len({line for line, _, _ in bad}) == len(bad) == imported.n_bad_lines
    assert {line for line, _, _ in bad} < full
    assert n_rows == imported.n_interactions == len(full) - len(bad)


@QUICK
@given(
    st.dictionaries(
        st.integers(1, 10**6), st.lists(st.integers(1, 50), min_size=1, max_size=20), min_size=1
    )
)
def test_any_sequences_come_back_as_they_were(sequences: dict[int, list[int]]):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "given.txt"
        lines = [" ".join(map(str, [user, *items])) for user, items in sequences.items()]
        file.write_text("\n".join(lines))
        imported = import_logs(file, Path(folder) / "logs", "sequences")
        found: dict[int, list[int]] = {}
        for user, item, _ in rows(imported):
            found.setdefault(user, []).append(item)
    assert found == sequences
    assert imported.n_interactions == sum(map(len, sequences.values()))


def test_lines_are_numbered_across_blocks(file: Path, out: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pipeline.logs.imports.text_lines, "_BLOCK", 64)
    time = seconds(NOON)
    lines = [f"{n}\t{n}\t1\t{time}" if n % 10 else "" if n % 20 else "bad" for n in range(1, 101)]
    file.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    imported = import_logs(file, out, "movielens", skip_bad_lines=True)
    assert [line for line, _, _ in left_out(imported)] == [20, 40, 60, 80, 100]
    assert [user for user, _, _ in rows(imported)] == [n for n in range(1, 101) if n % 10]


def test_a_nightly_run_reads_what_was_imported(file: Path, out: Path, tmp_path: Path):
    time = seconds(NOON)
    file.write_text(f"1\t8\t3\t{time}\n1\t9\t3\t{time}\nx\t3\n1\t7\t3\t{time}\n2\t7\t3\t{time}\n")
    imported = import_logs(file, out, "movielens", skip_bad_lines=True)
    settings = Settings(
        warehouse=str(tmp_path / "warehouse"), work_dir=tmp_path / "work", logs={"path": str(out)}
    )
    ingested = ingest(settings, imported.run_date)
    assert (ingested.files, ingested.added, ingested.quarantined) == (1, 4, 0)
    prepared = prepare(settings, imported.run_date, ingested)
    histories = sequences(prepared.folder)["item_ids"].to_pylist()
    assert histories == [[8, 9, 7], [7]]


def test_the_command(file: Path, out: Path):
    time = seconds(NOON)
    file.write_text(f"a|b|t\n1|x|{time}\n2|y|{time}\n|y|{time}\n")
    flags = ["--user", "a", "--item", "b", "--timestamp", "t", "--delimiter", "|"]
    command = ["import", str(file), "--format", "csv", "--out", str(out), *flags]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2
    assert refused.stderr.startswith(f"error: {file}, line 4: the user id is empty; expected")
    done = CliRunner().invoke(app, [*command, "--skip-bad-lines"])
    assert done.exit_code == 0, done.output
    words = " ".join(done.stdout.split())
    assert "users 2 (integers) items 2 (strings) interactions 2 " in words
    assert f"bad lines 1, in {out / BAD_LINES_FILE}" in words
    assert words.endswith(f"Next: fearec nightly --set logs.path={out} --date 2026-06-02")
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 2
    assert "there already" in again.stderr
