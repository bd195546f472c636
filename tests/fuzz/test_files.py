"""Fuzzing of every file that is read from people or from disk: one line or a value, in time.

A small sample runs by default; ``-m slow`` runs FUZZ_EXAMPLES examples (10,000) of each.
"""

import io
import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

from pipeline.bundles.bundle import Bundle
from pipeline.config.score_section import ScoreSettings
from pipeline.logs.id_lists import read_ids
from pipeline.logs.imports.importer import import_logs
from pipeline.logs.imports.options import Columns, Format
from pipeline.logs.items_table import item_titles
from pipeline.schema import vocabulary_schema
from pipeline.scoring.eligibility import eligible_items
from pipeline.scoring.encoded_part import EncodedPart
from pipeline.scoring.manifest import PartCounts, ResumeKey
from pipeline.scoring.output import PartWriter, open_output
from pipeline.scoring.scorer import open_scorer
from pipeline.storage.folders import open_folder
from tests.helpers.fuzzing import (
    NASTY,
    SOME,
    damaged_bytes,
    encoded,
    expect_value_or_line,
    fuzz,
    json_like,
)
from tests.helpers.scoring_cases import run

MANY = int(os.environ.get("FUZZ_EXAMPLES", "10000"))
NOW = datetime(2026, 6, 1, tzinfo=UTC)
Read = Callable[[bytes], None]


@pytest.fixture(scope="module", autouse=True)
def _bundle(tiny_bundle: Bundle) -> Iterator[None]:
    """The bundle that is damaged, or scored with."""
    global bundle
    bundle = tiny_bundle
    yield
    del bundle


bundle: Bundle


def parquet(**columns: Any) -> bytes:
    """A Parquet file, not compressed, so that damage reaches the values."""
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, compression="none")
    return sink.getvalue()


def misnamed(content: bytes) -> bytes:
    """The file with a column more or less, of a name that is not UTF-8."""
    return content.replace(b"another", b"anoth\xff\xfe")


def id_columns() -> list[pa.Array]:
    """Five ids of every type that a file may have, right ones and wrong ones."""
    numbers = pa.array([1, 2, None, 4, 2])
    texts = pa.array(["item1", " item2 ", None, '"item3"', ""])
    return [
        *(numbers.cast(kind) for kind in (pa.int8(), pa.int64(), pa.uint64(), pa.float64())),
        *(numbers.cast(kind) for kind in (pa.decimal128(30, 0), pa.decimal128(30, 2))),
        *(texts.cast(kind) for kind in (pa.string(), pa.large_string(), pa.string_view())),
        *(texts.dictionary_encode(), texts.cast(pa.binary()), pa.nulls(5)),
        pa.array([bytes(16), None, bytes(range(16)), bytes(16), bytes(16)], pa.binary(16)),
        pa.array([date(2026, 6, 1)] * 5),
        pa.array([NOW] * 5),
        pa.array([[1], [2, 3], None, [], [4]]),
        pa.array([{"a": 1}, None, {"a": 2}, {}, {"a": None}]),
        pa.array([True, False, None, True, True]),
        pa.array([2**63, 2**64 - 1, 1, 1, 1], pa.uint64()),
        pa.array([0.5, float("nan"), float("inf"), 1e300, 1.0]),
    ]


# Files of ids


def items(ids: list[Any]) -> pa.Table:
    schema = vocabulary_schema(pa.array(ids).type)
    index = range(1, len(ids) + 1)
    return pa.table([list(index), ids, list(index), [NOW] * len(ids)], names=schema.names).cast(
        schema
    )


def read_id_file(content: bytes) -> None:
    """As allow and deny files of two bundles, and as a file of users of two inputs."""
    with TemporaryDirectory() as folder:
        path = str(Path(folder) / "ids")
        Path(path).write_bytes(content)
        for ids in ([1, 2, 3], ["item1", "item2", "PAR1"]):
            known = items(ids)
            for settings in ({"allow": path}, {"deny": path}):
                chosen = ScoreSettings(top_k=2, **settings)
                expect_value_or_line(
                    lambda known=known, chosen=chosen: eligible_items(known, chosen)
                )
            kind = known["item_id"].type
            expect_value_or_line(lambda kind=kind: read_ids(path, "user_id", kind, "the input"))


def id_files() -> st.SearchStrategy[bytes]:
    texts = [
        b"item1\nitem2\n", b"item_id\n1\n2\n3", b"\xef\xbb\xbfitem1\r\n\"item2\"\r\n ' 3'\r\n",
        b"PAR1\nPAR1x\n", b"1,2,3\n4,5,6\n", "item1\nitem2\n".encode("utf-16"), b"",
    ]  # fmt: skip
    tables = [parquet(item_id=ids, user_id=ids) for ids in id_columns()]
    tables += [misnamed(parquet(item_id=id_columns()[1], another=id_columns()[1]))]
    tables += [b"PAR1" + b"\0" * 8 + b"PAR1", b"PAR1" + b"\xff" * 8 + b"PAR1"]
    return damaged_bytes(st.sampled_from([*texts, *tables]))


# Tables of items


def read_items_of(ending: str) -> Read:
    def read(content: bytes) -> None:
        with TemporaryDirectory() as folder:
            path = Path(folder) / f"items.{ending}"
            path.write_bytes(content)
            expect_value_or_line(lambda: item_titles(path, ["item1", "1", 1, "PAR1"]))

    return read


def items_csv() -> st.SearchStrategy[bytes]:
    texts = [
        b'item_id,title,price\n1,"One, two\nthree",1.5\n2,,\n',
        b"\xef\xbb\xbftitle;item_id\r\nOne;1\r\n",
        b"item_id,title\n1,One\n1,Two\n",
        b"item_id\ttitle\n1\tOne\n",
        b"item_id,item_id,title\n1,1,One\n",
    ]
    return damaged_bytes(st.sampled_from(texts))


def items_parquet() -> st.SearchStrategy[bytes]:
    titles = pa.array(["One", None, "Three", "", "5"])
    typed = [parquet(item_id=column, title=titles) for column in id_columns()]
    distinct = pa.array([1, 2, 3, 4, 5])
    named = [parquet(item_id=distinct, title=column) for column in id_columns()]
    wrong = [
        parquet(item_id=distinct),
        misnamed(parquet(item_id=distinct, title=titles, another=titles)),
    ]
    return damaged_bytes(st.sampled_from([*typed, *named, *wrong]))


# Manifests


KEY = ResumeKey(model_version="v1", bundle={"a": "b"}, inputs={}, settings={"top_k": 10})
ROWS = pa.table({"user_id": ["a", "b"], "score": [0.5, 0.25]})
PART = EncodedPart.of(ROWS, PartCounts(n_users=2, n_rows=2))


@cache
def finished() -> dict[str, bytes]:
    """The files of an output of three parts."""
    with TemporaryDirectory() as folder:
        out = open_output(open_folder(folder), KEY, NOW, resume=False, overwrite=False)
        with out.begin():
            for _ in range(3):
                out.write(PART)
            out.finish(ROWS)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def manifests() -> st.SearchStrategy[bytes]:
    text = finished()["_manifest.json"].decode()
    return st.one_of(json_like(text).map(encoded), damaged_bytes(st.just(encoded(text))))


def read_manifest_of(**flags: bool) -> Read:
    def read(content: bytes) -> None:
        with TemporaryDirectory() as above:
            folder = Path(above) / "out"
            folder.mkdir()
            mine = Path(above) / "part-00000.parquet"  # one level up, where no run may write
            mine.write_bytes(b"mine")
            for name, part in {**finished(), "_manifest.json": content}.items():
                (folder / name).write_bytes(part)
            expect_value_or_line(lambda: write_again(folder, **flags))
            assert mine.read_bytes() == b"mine"
            assert sorted(os.listdir(above)) == ["out", "part-00000.parquet"]

    return read


def write_again(folder: Path, **flags: bool) -> None:
    out: PartWriter = open_output(
        open_folder(folder), KEY, NOW, **{"resume": False, "overwrite": False, **flags}
    )
    with out.begin():
        out.write(PART)
        out.finish(ROWS)
    written = json.loads((folder / "_manifest.json").read_bytes())
    assert {*written["parts"], "_manifest.json"} == set(os.listdir(folder))


# Bundles


def read_bundle(content: bytes) -> None:
    """A whole bundle whose description is damaged: loaded, and opened to score with."""
    with TemporaryDirectory() as folder:
        for file in bundle.path.iterdir():
            (Path(folder) / file.name).symlink_to(file)
        (Path(folder) / "bundle.json").unlink()
        (Path(folder) / "bundle.json").write_bytes(content)
        expect_value_or_line(lambda: open_bundle(folder))


def open_bundle(folder: str) -> None:
    loaded = Bundle.load(folder)
    settings = ScoreSettings(top_k=2, provider="cpu")
    eligibility = eligible_items(loaded.items(), settings)
    loaded.check_table_size()
    open_scorer(loaded, settings, eligibility, None, 0)


def descriptions() -> st.SearchStrategy[bytes]:
    return st.deferred(lambda: json_like((bundle.path / "bundle.json").read_text()).map(encoded))


# Inputs of scoring


def read_input(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "input.parquet"
        path.write_bytes(content)
        for days in (None, 30):
            out = Path(folder) / f"out-{days}"
            expect_value_or_line(
                partial(run, path, bundle, out, time_zone="Asia/Tokyo", active_within_days=days)
            )


def time_columns() -> list[pa.Array]:
    seconds = pa.array([1_780_000_000, None, 0, -1, 2**50])
    return [
        *(seconds, seconds.cast(pa.float64()), pa.array([NOW] * 5), pa.array([date(1, 1, 1)] * 5)),
        pa.array(
            ["2026-06-01T12:00:00Z", "2026-06-01", None, "nonsense", "2026-06-01 12:00+02:00"]
        ),
        pa.array([2**63, 2**64 - 1, 0, 1, None], pa.uint64()),
        pa.array([-(2**63), 2**63 - 1, 0, 1, None], pa.timestamp("us")),
        pa.array([-(2**63), 2**63 - 1, 0, 1, None], pa.timestamp("ns", "UTC")),
    ]


def logs() -> st.SearchStrategy[bytes]:
    texts = pa.array(["item1", "item2", "item3", None, ""])
    times = time_columns()
    files = [
        *(parquet(user_id=ids, item_id=texts, timestamp=times[0]) for ids in id_columns()),
        *(parquet(user_id=texts, item_id=ids, timestamp=times[0]) for ids in id_columns()),
        *(parquet(user_id=texts, item_id=texts, timestamp=column) for column in times),
        misnamed(parquet(user_id=texts, item_id=texts, timestamp=times[0], another=texts)),
    ]
    return damaged_bytes(st.sampled_from(files))


def sequences() -> st.SearchStrategy[bytes]:
    users = pa.array(["a", "b", None, "d"])
    texts = pa.array(["item1", "item2", "item3", None, ""])

    def lists(values: pa.Array) -> pa.Array:
        return pa.ListArray.from_arrays(pa.array([0, 2, 2, 3, 5], pa.int32()), values)

    files = [
        *(parquet(user_id=ids.slice(0, 4), item_ids=lists(texts)) for ids in id_columns()),
        *(parquet(user_id=users, item_ids=lists(ids)) for ids in id_columns()),
        *(
            parquet(user_id=users, item_ids=lists(texts), timestamps=lists(times))
            for times in time_columns()
        ),
        *(
            parquet(user_id=users, item_ids=pa.array(lists(texts).to_pylist(), kind))
            for kind in (pa.large_list(pa.string()), pa.list_view(pa.string()))
        ),
        misnamed(parquet(user_id=users, item_ids=lists(texts), another=users)),
    ]
    return damaged_bytes(st.sampled_from(files))


# Imports

FORMATS: dict[Format, tuple[bytes, ...]] = {
    "recbole": (b"user_id:token\titem_id:token\ttimestamp:float\n1\t2\t100\n2\t3\t1e9\n",),
    "movielens": (b"1::2::5::978300760\n2::3::4::978302109\n", b"196\t242\t3\t881250949\n",
                  b"userId,movieId,rating,timestamp\n1,2,4.0,964982703\n"),
    "csv": (b'user,item,time\na,b,2026-06-01\n"c, d",e,2026-06-02T10:00:00Z\n',),
    "sequences": (b"1 2 3 4\n2 5\n3 6 7\n",),
}  # fmt: skip


def read_import(content: tuple[Format, bytes, bool]) -> None:
    kind, text, skip = content
    columns = Columns("user", "item", "time", "iso") if kind == "csv" else Columns()
    with TemporaryDirectory() as folder:
        path, out = Path(folder) / "given", Path(folder) / "logs"
        path.write_bytes(text)
        expect_value_or_line(lambda: import_logs(path, out, kind, columns, skip_bad_lines=skip))


def imports() -> st.SearchStrategy[tuple[Format, bytes, bool]]:
    return st.sampled_from(get_args(Format)).flatmap(
        lambda kind: st.tuples(
            st.just(kind), damaged_bytes(st.sampled_from(FORMATS[kind])), st.booleans()
        )
    )


READERS: dict[str, tuple[Callable[[Any], None], Callable[[], st.SearchStrategy[Any]]]] = {
    "file of ids": (read_id_file, id_files),
    "items.csv": (read_items_of("csv"), items_csv),
    "items.parquet": (read_items_of("parquet"), items_parquet),
    "_manifest.json to resume": (read_manifest_of(resume=True), manifests),
    "_manifest.json to overwrite": (read_manifest_of(overwrite=True), manifests),
    "bundle": (read_bundle, descriptions),
    "log": (read_input, logs),
    "sequences": (read_input, sequences),
    "import": (read_import, imports),
}


@pytest.mark.parametrize("name", READERS)
def test_any_file_is_a_value_or_one_line(name: str) -> None:
    read, files = READERS[name]
    fuzz(read, files(), SOME)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", READERS)
def test_any_of_many_files_is_a_value_or_one_line(name: str) -> None:
    read, files = READERS[name]
    fuzz(read, files(), MANY)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("number", range(len(NASTY)))
def test_a_file_of_what_has_broken_readers_is_a_value_or_one_line(name: str, number: int) -> None:
    content = encoded(NASTY[number])
    if name != "import":
        READERS[name][0](content)
        return
    for kind in get_args(Format):
        read_import((kind, content, True))
