"""Fuzzing of readers: damaged texts, JSON and bytes, and what a reader may make of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import FearecError

SOME = 30  # examples of each reader, always the same
SECONDS = 60  # per example, or it hangs; most take milliseconds, but the machine may be busy

# What has broken readers of text before.
NASTY = [
    "", "\0", "\ufeff", "\ud800", "\x1b[31m", "\r", "\n", "'", '"', '"""', "\\", "{", "}", "[", "]",
    "[" * 3000, "{" * 3000, '{"a":' * 2000, "9" * 5000, "-1", "0", "1e400", "1e999999999", "nan",
    "inf", "-inf", "1_000", "0x10", "2026-06-01", "2026-06-01T12:00:00Z", "12:30:00", "true",
    "null", "None", "x" * 5000, "../" * 50, "s3://", "s3://a/b", "file:///etc", "~", "%2F", "/",
    "a.b.c=1", "=", ".", "..", "#", ",", "1,2,3", "[1,2", "(3,100]", "[5,inf)", "é", "\u202e", "💥",
    "choice [1]", "uniform 0,1", "quniform 0,1e300,1e-300", "loguniform -8,0", "PAR1",
]  # fmt: skip

pieces = st.one_of(st.sampled_from(NASTY), st.text(max_size=20), st.integers().map(str))
_bytes = st.one_of(pieces.map(lambda text: encoded(text)), st.binary(max_size=20))


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def write(path: Path, text: str) -> Path:
    path.write_bytes(encoded(text))
    return path


@st.composite
def damaged(draw: st.DrawFn, text: str) -> str:
    """A valid text after up to four edits: a span cut out, replaced or doubled."""
    for _ in range(draw(st.integers(0, 4))):
        begin = draw(st.integers(0, len(text)))
        end = min(len(text), begin + draw(st.integers(0, 30)))
        edit = draw(st.one_of(pieces, st.just(text[begin:end] * 2)))
        text = text[:begin] + edit + text[end:]
    return text


@st.composite
def damaged_bytes(draw: st.DrawFn, contents: st.SearchStrategy[bytes]) -> bytes:
    """One of some valid contents after up to four edits: as of a text, or a byte changed."""
    content = draw(contents)
    for _ in range(draw(st.integers(0, 4))):
        begin = draw(st.integers(0, len(content)))
        end = min(len(content), begin + draw(st.one_of(st.just(1), st.integers(0, 30))))
        edit = draw(
            st.one_of(
                st.binary(min_size=end - begin, max_size=end - begin),
                _bytes,
                st.just(content[begin:end] * 2),
            )
        )
        content = content[:begin] + edit + content[end:]
    if draw(st.integers(0, 9)) == 0:
        content = content[: draw(st.integers(0, len(content)))]
    return content


def edited_values(value: Any) -> st.SearchStrategy[Any]:
    """The JSON value with any part of it replaced by another value."""
    scalars = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), pieces, st.just([]), st.just({})
    )
    if isinstance(value, dict) and value:
        inner = st.sampled_from(sorted(value)).flatmap(
            lambda key: edited_values(value[key]).map(lambda new: {**value, key: new})
        )
        return st.one_of(inner, inner, scalars)
    return scalars


def texts_like(text: str) -> st.SearchStrategy[str]:
    return st.one_of(damaged(text), st.text(max_size=200))


def json_like(text: str) -> st.SearchStrategy[str]:
    return st.one_of(damaged(text), edited_values(json.loads(text)).map(json.dumps))


def expect_value_or_line(read: Callable[[], Any]) -> None:
    """A reader returns a value, or raises an error of ours in one line of a readable length."""
    lines = ["a value"]
    try:
        read()
    except FearecError as error:
        lines = str(error).splitlines()
    assert len(lines) == 1
    assert len(lines[0]) < 2000


def fuzz(read: Callable[[Any], None], given_to_it: st.SearchStrategy[Any], examples: int) -> None:
    """Give a reader many examples; each may take `SECONDS`."""

    @settings(
        max_examples=examples, deadline=SECONDS * 1000, suppress_health_check=list(HealthCheck),
        derandomize=examples == SOME, database=None,
    )  # fmt: skip
    @given(given_to_it)
    def every(example: Any) -> None:
        read(example)

    every()
