"""What commands print cannot steer the terminal."""

import json
import math
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table

from pipeline.storage.credentials import masked
from pipeline.terminal import Terminal, print_error, print_plain, print_result, printable

HOSTILE = {
    "\x1b[2J": r"\x1b[2J",
    "\x1b]0;title\x07": r"\x1b]0;title\x07",
    "a\nerror: b": r"a\nerror: b",
    "a\rb": r"a\rb",
    "\x9b31m": r"\x9b31m",
    "\u202eabc": r"\u202eabc",
    "caf\udce9": r"caf\udce9",
    "s3://K:S@bucket": "s3://***@bucket",
    "ann[/b]": "ann[/b]",
    "ann [b]x": "ann [b]x",
    "sku:heart:1": "sku:heart:1",
    "long " * 60 + "id": "long " * 60 + "id",
}


@pytest.mark.parametrize(("text", "shown"), HOSTILE.items())
def test_ids_and_paths_are_shown_and_steer_nothing(
    text: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_plain(f"user {text}")
    print_error(f"error: {text}")
    print_plain(f"events of {text}")
    table = Table("item")
    table.add_row(text)
    Terminal().print(table)
    out, err = capsys.readouterr()
    assert err == f"error: {shown}\n"
    assert out.startswith(f"user {shown}\n")
    assert not {*out} & {*"\x1b\x07\r\x9b\u202e\udce9"}
    assert out.count(shown) == 3


@pytest.mark.parametrize("text", [*HOSTILE, "\x7f", 'gs://b?key=S3CRET"x', 'x"\\'])
def test_json_is_one_line_of_ascii_without_keys(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {
        text: text,
        "list": [Path(text)],
        "day": date(2026, 7, 1),
        "nan": [math.nan, -math.inf],
    }
    print_result(values, lambda: None, as_json=True)
    out = capsys.readouterr().out
    assert out.isascii()
    assert not {*out[:-1]} & {*map(chr, range(32)), "\x7f"}
    shown = masked(text)
    assert json.loads(out) == {
        shown: shown, "list": [masked(str(Path(text)))], "day": "2026-07-01", "nan": [None, None],
    }  # fmt: skip
    assert "S3CRET" not in out
    assert "K:S" not in out


def test_what_is_printable_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    text = "[bold]x[/] :smile: Ünï 日本語 \t tab https://host:80/a@b"
    print_plain(text)
    assert printable(text) == text
    assert capsys.readouterr().out.replace(" ", "") == text.expandtabs().replace(" ", "") + "\n"


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
def test_an_output_that_cannot_be_written_is_one_line() -> None:
    code = """
from pipeline.errors import StorageError
from pipeline.terminal import print_error, print_plain
try:
    print_plain("x")
except StorageError as error:
    print_error(f"error: {error}")
"""
    full: Any
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (
        done.stderr == "error: standard output: cannot be written; found No space left on device\n"
    )
    assert done.returncode == 0
