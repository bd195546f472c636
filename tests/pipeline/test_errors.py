"""The translation of other libraries' exceptions, and the tree of errors in the docstring."""

import inspect
import pickle
import re

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipeline.errors
from pipeline.errors import (
    BundleError,
    FearecError,
    InputError,
    MemoryShortError,
    StorageError,
    TableCheckError,
    first_line,
    full_disks,
    memory_failures,
    naming,
    one_line,
    raised_as,
)
from pipeline.results import Check


@pytest.mark.parametrize(
    ("error", "whole", "first"),
    [
        (OSError(28, "whatever", "/a/file"), "No space left on device", "No space left on device"),
        (ValueError("one"), "one", "one"),
        (ValueError(), "ValueError", "ValueError"),
        (ValueError("\n two\n\t lines "), "two lines", "two"),
        (OSError("S3 error\n \x1b[31m↳\x1b[0m 404"), "S3 error ↳ 404", "S3 error"),
    ],
)  # fmt: skip
def test_messages_become_one_line(error: Exception, whole: str, first: str) -> None:
    assert (one_line(error), first_line(error)) == (whole, first)


def test_an_exception_is_translated_with_its_cause() -> None:
    cause = pa.ArrowInvalid("bad\nmagic")
    translated = raised_as(
        InputError, (OSError, pa.ArrowException), "cannot be read", "a.parquet",
        expected="Parquet", remedy="Write it again.",
    )  # fmt: skip
    with pytest.raises(InputError) as caught, translated:
        raise cause
    assert str(caught.value) == (
        "a.parquet: cannot be read; expected Parquet; found bad magic. Write it again."
    )
    assert caught.value.__cause__ is cause
    with pytest.raises(InputError, match=r"found bad$"), raised_as(
        InputError, pa.ArrowInvalid, "cannot be read", message=first_line
    ):  # fmt: skip
        raise cause


def test_other_exceptions_and_fearecs_own_pass() -> None:
    with pytest.raises(KeyError), raised_as(InputError, OSError, "cannot be read"):
        raise KeyError("a")
    own = BundleError("not a bundle")
    with pytest.raises(BundleError) as caught, raised_as(InputError, Exception, "cannot be read"):
        raise own
    assert caught.value is own


@pytest.mark.parametrize("name_file", [False, True])
def test_an_error_may_name_the_exceptions_file(name_file: bool) -> None:
    for error, file in ((OSError(2, "no", "/a/file"), "/a/file"), (OSError("no"), "/a")):
        with (
            pytest.raises(StorageError) as caught,
            raised_as(StorageError, OSError, "cannot be read", "/a", name_file=name_file),
        ):
            raise error
        assert caught.value.where == (file if name_file else "/a")


def places_of(error: Exception) -> tuple[str, str]:
    """What the translations blame for an exception that leaves two blocks that name places."""
    places = []
    for translated in (
        raised_as(StorageError, type(error), "cannot be read", "somewhere", name_file=True),
        full_disks("somewhere"),
    ):
        with (
            pytest.raises((StorageError, type(error))) as caught,
            translated,
            naming("outer"),
            naming("inner"),
        ):
            raise error
        places.append(getattr(caught.value, "where", "no full disk"))
    return places[0], places[1]


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        OSError(122, "Disk quota exceeded"),
        OSError("LocalFileSystem error ↳ No space left on device (os error 28)"),
        pa.ArrowInvalid("External: No space left on device (os error 28)"),
        duckdb.OutOfMemoryException("Out of Memory Error: failed to offload data block"),
    ],
)
def test_a_full_disk_is_that_of_the_innermost_place(error: Exception) -> None:
    assert places_of(error) == ("inner", "inner")
    unnamed = type(error)(*error.args)
    with (
        pytest.raises(StorageError, match=r"^somewhere: the disk is full. Make room"),
        full_disks("somewhere"),
    ):
        raise unnamed


def test_a_file_that_an_exception_names_goes_before_the_place() -> None:
    full = OSError(28, "No space left on device", "/a/file")
    assert places_of(full) == ("/a/file", "/a/file")


def test_a_place_leaves_the_message_what_it_is() -> None:
    error = OSError("Couldn't deserialize thrift")
    assert places_of(error) == ("inner", "no full disk")
    assert one_line(error) == "Couldn't deserialize thrift"


def test_fearecs_own_errors_keep_their_places() -> None:
    own = InputError("is empty: No space left on device", "a log")
    with pytest.raises(InputError) as caught, full_disks("somewhere"), naming("a table"):
        raise own
    assert caught.value.where == "a log"


CLASSES = {
    name: kind
    for name, kind in inspect.getmembers(pipeline.errors, inspect.isclass)
    if issubclass(kind, FearecError)
}
parts = st.text(max_size=20)


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    drawn: dict[str, tuple[str, str]] = {}
    above: list[str] = []
    for indent, name, code in re.findall(
        r"^    ([│├└─ ]*)(\w+Error) +(?:exit code )?(\d)", pipeline.errors.__doc__ or "", re.M
    ):
        above = [*above[: len(indent) // 4], name]
        drawn[name] = (above[-2] if len(above) > 1 else "Exception", code)
    assert drawn == {
        name: (kind.__base__.__name__, str(kind.exit_code)) for name, kind in CLASSES.items()
    }


@given(parts, parts, parts, parts, parts)
@pytest.mark.parametrize("kind", CLASSES.values())
def test_errors_pickle(
    kind: type[FearecError], what: str, where: str, expected: str, found: str, remedy: str
) -> None:
    error = kind(what, where, expected, found, remedy)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (str(copy), copy.remedy, copy.exit_code) == (str(error), remedy, kind.exit_code)


def test_the_checks_of_an_error_pickle() -> None:
    checks = (Check("coverage", "held", "coverage: 0.1", 0.1, 0.5),)
    error = TableCheckError("the recommendations failed", checks=checks)
    assert pickle.loads(pickle.dumps(error)).checks == checks


def test_a_failed_copy_names_the_file_that_could_not_be_written() -> None:
    full = OSError(28, "No space left on device", "work/weights", None, "warehouse/weights")
    with (
        pytest.raises(StorageError, match=r"^warehouse/weights: .*No space") as caught,
        raised_as(StorageError, OSError, "cannot be written", "somewhere", name_file=True),
    ):
        raise full
    assert caught.value.__cause__ is full


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        pa.ArrowMemoryError("malloc of size 64 failed"),
        RuntimeError("can't start new thread"),
        ImportError("a.so: failed to map segment from shared object"),
        RuntimeError("[ONNXRuntimeError] : 6 : std::bad_alloc"),
    ],
)
def test_want_of_memory_is_an_error_of_its_own(error: Exception) -> None:
    with pytest.raises(MemoryShortError, match="not enough memory") as caught, memory_failures():
        raise error
    assert caught.value.__cause__ is error
    with pytest.raises(ImportError), memory_failures():
        raise ImportError("No module named 'onnxruntime'")
