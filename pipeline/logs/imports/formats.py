"""The formats of files to import: from a file's first line to the parser of its lines."""

import re

from pipeline.errors import ConfigError, SchemaError
from pipeline.logs.imports.line_parser import (
    LineParser,
    delimited_parser,
    field_pattern,
    sequences_parser,
)
from pipeline.logs.imports.options import Columns, Format
from pipeline.schema import ITEM_ID, TIMESTAMP, USER_ID

_RATINGS = ["userId", "movieId", "rating", "timestamp"]


def line_parser(kind: Format, columns: Columns, number: int, line: str, path: str) -> LineParser:
    """The parser of a file's lines.

    Args:
        kind: Format of the file.
        columns: Columns as given by the user.
        number: Number of the first line that is not blank.
        line: Text of that line.
        path: The file's path, for errors.

    Raises:
        ConfigError: `columns` has options that are not allowed for the format.
        SchemaError: the header lacks a column, or the file has another format.
    """
    _check_options(kind, columns)
    where = f"{path}, line {number}"
    if kind == "sequences":
        return sequences_parser(number)
    if kind == "recbole":
        header = _recbole_header(line.split("\t"), where)
        user, item, timestamp = _positions(header, columns, where)
        return delimited_parser(number + 1, "\t", len(header), user, item, timestamp, columns.unit)
    if kind == "movielens":
        return _movielens(number, line, where)
    return _csv(number, line, columns, where)


def _check_options(kind: Format, columns: Columns) -> None:
    flags = {
        "--user": columns.user,
        "--item": columns.item,
        "--timestamp": columns.timestamp,
        "--timestamp-unit": columns.unit,
        "--delimiter": columns.delimiter,
        "--no-header": not columns.header,
    }
    allowed = {"csv": list(flags), "recbole": list(flags)[:4]}.get(kind, [])
    others = [flag for flag, value in flags.items() if value and flag not in allowed]
    if others:
        raise ConfigError(f"not for the format {kind}", ", ".join(others))


def _recbole_header(header: list[str], where: str) -> list[str]:
    names = [field.partition(":") for field in header]
    if not all(colon for _, colon, _ in names):
        raise SchemaError(
            "not the header of a RecBole file",
            where,
            expected="names with types and tabs between them, such as user_id:token",
            found=repr(_short("\t".join(header))),
        )
    return [name for name, _, _ in names]


def _movielens(number: int, line: str, where: str) -> LineParser:
    if line.replace('"', "").split(",") == _RATINGS:
        return delimited_parser(number + 1, ",", 4, 1, 2, 4, "s", quoted=True)
    for delimiter in ("::", "\t"):
        if delimiter in line:
            return delimited_parser(number, delimiter, 4, 1, 2, 4, "s")
    raise SchemaError(
        "not a file of MovieLens ratings",
        where,
        expected="u.data (tabs between fields), ratings.dat (:: between fields) or ratings.csv "
        f"(header {','.join(_RATINGS)})",
        found=repr(_short(line)),
    )


def _csv(number: int, line: str, columns: Columns, where: str) -> LineParser:
    delimiter = "," if columns.delimiter is None else columns.delimiter.replace(r"\t", "\t")
    if not delimiter or any(each in delimiter for each in '"\n\r'):
        raise ConfigError("cannot be a delimiter", "--delimiter", found=repr(delimiter))
    quoted = len(delimiter) == 1
    fields = line.split(delimiter)
    if quoted:
        found = re.findall(field_pattern(delimiter), delimiter + line)
        if "".join(found) == delimiter + line:
            fields = [field[1:] for field in found]
        fields = [field.strip().strip('"') for field in fields]
    header = [field.strip() for field in fields]
    if not columns.header:
        header = [str(position) for position in range(1, len(fields) + 1)]
        if None in (columns.user, columns.item, columns.timestamp):
            raise ConfigError(
                "without a header the columns have numbers instead of names",
                "--no-header",
                expected="--user, --item and --timestamp with numbers from 1",
            )
    user, item, timestamp = _positions(header, columns, where)
    return delimited_parser(
        number + columns.header,
        delimiter,
        len(header),
        user,
        item,
        timestamp,
        columns.unit,
        quoted=quoted,
    )


def _positions(header: list[str], columns: Columns, where: str) -> list[int]:
    """The positions of user, item and timestamp, from 1."""
    flags = {
        "--user": columns.user or USER_ID,
        "--item": columns.item or ITEM_ID,
        "--timestamp": columns.timestamp or TIMESTAMP,
    }
    for flag, name in flags.items():
        if header.count(name) != 1:
            raise SchemaError(
                f"{'several columns' if name in header else 'no column'} {name!r}",
                where,
                found="columns " + _short(", ".join(map(repr, header))),
                remedy=f"Name the right column with {flag}.",
            )
    if len(set(flags.values())) < len(flags):
        found = ", ".join(map(repr, flags.values()))
        raise ConfigError("the same column given twice", ", ".join(flags), found=found)
    return [header.index(name) + 1 for name in flags.values()]


def _short(text: str) -> str:
    return text if len(text) <= 120 else text[:120] + "..."
