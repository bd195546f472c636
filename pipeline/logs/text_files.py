"""Logs that are text: CSV files and JSON lines, plain or compressed by gzip.

Arrow reads the text, from any store, and notices where it is not whole. All values stay the text
that they are in the file, so that 0012 keeps its zeros; empty ones are null.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import duckdb
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.fs as pafs

from pipeline.errors import first_line

ENDINGS = "*.csv, *.jsonl, *.ndjson, the same with .gz, or *.json.gz"  # for messages

_FORMATS = {
    "CSV": re.compile(r"\.csv(\.gz)?"),
    "JSON lines": re.compile(r"\.(jsonl|ndjson)(\.gz)?|\.json\.gz"),
}
_BLOCK = 1 << 24  # bytes; the longest line
_HEAD = 1 << 16  # bytes; the longest header
_DELIMITERS = ",;\t|"
_LINE = "line"
_NO_CSV = csv.ParseOptions(delimiter="\x1f", quote_char=False)  # JSON holds no such character
_NUMBERS = ("BIGINT", "UBIGINT", "HUGEINT", "DOUBLE")


def text_format(path: str) -> str | None:
    """The format of a file by its ending, ``CSV`` or ``JSON lines``; None for another one."""
    name = path.lower().rpartition("/")[2]
    for format_name, ending in _FORMATS.items():
        found = ending.search(name)
        if found and found.end() == len(name):
            return format_name
    return None


def read_text_columns(filesystem: pafs.FileSystem, path: str) -> tuple[pa.Schema, bool]:
    """The columns of a text file, and whether it has rows; no more than its first block is read.

    Text has no type: that of all columns is null. Of JSON lines it is int64 or string for a column
    whose first value is a number or a string.

    Raises:
        OSError: the file cannot be read.
        pa.ArrowInvalid: it is not of its format.
    """
    with _opened(filesystem, path) as reader:
        block = next(iter(reader), None) if reader else None
        has_rows = block is not None and len(block) > 0
        if reader and text_format(path) == "CSV":
            return pa.schema([(name, pa.null()) for name in reader.schema.names]), has_rows
        return _json_columns(block) if has_rows else pa.schema([]), has_rows


def read_text_batches(
    filesystem: pafs.FileSystem, path: str, names: Sequence[str], rows: int
) -> Iterator[pa.RecordBatch]:
    """The rows of a text file in batches whose columns are strings.

    Args:
        filesystem: Of the file.
        path: Of the file in it.
        names: Of the columns; those that a CSV file lacks are left out.
        rows: The largest number of rows in a batch.

    Raises:
        OSError: the file cannot be read, or is not whole.
        pa.ArrowInvalid: it is not of its format, or not UTF-8.
    """
    is_csv = text_format(path) == "CSV"
    with _opened(filesystem, path, names if is_csv else None) as reader:
        for block in reader or ():
            for start in range(0, len(block), rows):
                batch = block.slice(start, rows)
                yield batch if is_csv else _json_values(batch, names)


@contextmanager
def _opened(
    filesystem: pafs.FileSystem, path: str, names: Sequence[str] | None = None
) -> Iterator[csv.CSVStreamingReader | None]:
    """A stream of some columns of a CSV file, or of lines; None for a file without any."""
    with _stream(filesystem, path) as source:
        head = source.read(_HEAD).removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n")
    if not head:
        yield None
        return
    columns, parsing = [_LINE], _NO_CSV
    if text_format(path) == "CSV":
        header = head.splitlines()[0] + b"\n"
        delimiter = max(_DELIMITERS, key=lambda each: header.count(each.encode()))
        parsing = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
        columns = csv.read_csv(pa.BufferReader(header), parse_options=parsing).column_names
    conversion = csv.ConvertOptions(
        column_types=dict.fromkeys(columns, pa.string()),
        include_columns=None if names is None else [name for name in names if name in columns],
        null_values=[""],
        strings_can_be_null=True,
    )
    reading = csv.ReadOptions(
        block_size=_BLOCK,
        use_threads=False,
        column_names=columns if parsing is _NO_CSV else None,
    )
    with (
        _stream(filesystem, path) as source,
        csv.open_csv(source, reading, parsing, conversion) as reader,
    ):
        yield reader


def _stream(filesystem: pafs.FileSystem, path: str) -> pa.NativeFile:
    compression = "gzip" if path.lower().endswith(".gz") else None
    return filesystem.open_input_stream(path, compression=compression)


def _json_columns(lines: pa.RecordBatch) -> pa.Schema:
    """The columns of JSON lines: every key that they have, with the type of its first value."""
    found = _json(
        lines,
        """SELECT key, first(kind) FILTER (kind <> 'NULL') AS kind FROM (
            SELECT key, json_type(line, '/' || replace(replace(key, '~', '~0'), '/', '~1')) AS kind
            FROM (SELECT line, unnest(json_keys(line)) AS key FROM lines)
        ) GROUP BY key ORDER BY key""",
    )
    kinds = {**dict.fromkeys(_NUMBERS, pa.int64()), "VARCHAR": pa.string()}
    pairs = zip(found["key"].to_pylist(), found["kind"].to_pylist(), strict=True)
    return pa.schema([(name, kinds.get(kind, pa.null())) for name, kind in pairs])


def _json_values(lines: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
    """The values of some keys of JSON lines as text."""
    # Together, as a line is parsed once per call of the function.
    places = range(1, len(names) + 1)
    texts = ", ".join(f"nullif(texts[{place}], '') AS column{place}" for place in places)
    pointers = ["/" + name.replace("~", "~0").replace("/", "~1") for name in names]
    query = f"SELECT {texts} FROM (SELECT json_extract_string(line, $1) AS texts FROM lines)"
    values = _json(lines, query, pointers).combine_chunks()
    return pa.record_batch([column.combine_chunks() for column in values.columns], list(names))


def _json(lines: pa.RecordBatch, query: str, *parameters: object) -> pa.Table:
    """The answer to a query over the table `lines`, each of which is a JSON object.

    Raises:
        pa.ArrowInvalid: one is not.
    """
    with duckdb.connect(config={"threads": 1}) as db:
        db.register("lines", pa.Table.from_batches([lines]))
        try:
            others = db.execute(
                "SELECT line FROM lines WHERE json_type(line) <> 'OBJECT' LIMIT 1"
            ).fetchone()
            if others is None:
                return db.sql(query, params=list(parameters)).to_arrow_table()
        except duckdb.InvalidInputException as error:
            raise pa.ArrowInvalid(first_line(error)) from None
    raise pa.ArrowInvalid(f"not a JSON object: {others[0][:80]}")
