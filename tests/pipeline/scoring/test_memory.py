"""Want of memory ends `fearec-score` with one line, wherever it shows."""

import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Timer
from typing import Any

import onnxruntime
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from pipeline.bundles.bundle import Bundle
from pipeline.scoring.cli import app
from tests.helpers.scoring_cases import events, random_histories, write_log, write_sequences

SHORT: dict[str, Exception] = {
    "numpy": MemoryError("Unable to allocate 3.05 MiB for an array"),
    "pyarrow": pa.ArrowMemoryError("malloc of size 64 failed"),
    "onnxruntime": onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException("std::bad_alloc"),
    "a thread": RuntimeError("can't start new thread"),
    "a library": ImportError("libx.so: failed to map segment from shared object"),
    "the system": OSError(errno.ENOMEM, "Cannot allocate memory"),
}
PLACES = [
    "pipeline.bundles.bundle.read_description",
    "pipeline.bundles.bundle.pq.read_table",
    "pipeline.scoring.inputs.read_footer",
    "pipeline.scoring.item_rules.read_ids",
    "pipeline.scoring.eligibility.id_list_hash",
    "onnxruntime.InferenceSession",
    "pipeline.storage.folders.LocalFolder.scratch",
    "duckdb.connect",
    "pipeline.scoring.sequence_reader.read_batches",
    "pipeline.scoring.list_scorer.batches",
    "pipeline.scoring.recommender.Recommender.__call__",
    "pipeline.scoring.encoded_part.pq.write_table",
    "pipeline.scoring.encoded_part.sha256",
]


@pytest.mark.parametrize("library", SHORT)
@pytest.mark.parametrize("place", PLACES)
def test_it_is_one_line_wherever_it_shows(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, library: str
) -> None:
    path = write_sequences(tmp_path / "s.parquet", random_histories(5))
    (tmp_path / "deny.txt").write_text("item1\n")

    def scarce(*args: Any, **options: Any) -> Any:
        raise SHORT[library]

    monkeypatch.setattr(place, scarce)
    options = ["--output", str(tmp_path / "out"), "--deny", str(tmp_path / "deny.txt")]
    result = CliRunner().invoke(
        app, [str(path), "--model", str(tiny_bundle.path), "--provider", "cpu", *options]
    )
    assert isinstance(result.exception, SystemExit), result.exception
    assert (result.exit_code, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("error: there is not enough memory; found ")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no limit of memory")
@pytest.mark.parametrize("kind", ["log", "sequences"])
def test_under_any_limit_it_is_one_line_or_the_end_of_a_library(
    make_bundle: Callable[..., Bundle], tmp_path: Path, kind: str
) -> None:
    histories, path = random_histories(20_000), tmp_path / "input.parquet"
    write_log(path, events(histories)) if kind == "log" else write_sequences(path, histories)
    bundle = make_bundle(tmp_path / "bundle", [f"item{index}" for index in range(1, 30_001)])

    def score(limit: int) -> tuple[int, list[str]]:
        """The exit code, -9 where it had to be killed, and the standard error without progress."""
        code = (
            f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))\n"
            "from pipeline.scoring.cli import command; command()"
        )
        options = ["--output", str(tmp_path / str(limit)), "--provider", "cpu"]
        command = [sys.executable, "-c", code, str(path), "--model", str(bundle.path), *options]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            killer = Timer(100, process.kill)
            killer.start()
            errors = process.communicate()[1]
            killer.cancel()
        lines = errors.splitlines()
        return process.returncode, [line for line in lines if not line.startswith("scoring: ")]

    n_errors = 0
    for limit in range(150, 3000, 285):
        exit_code, errors = score(limit * 2**20)
        assert not any("Traceback" in line for line in errors)
        # Where a thread of theirs has no memory, the C library, OpenBLAS and DuckDB end the
        # process, and Arrow may wait for it.
        if exit_code == 1 and errors and errors[0].startswith("error: "):
            (line,) = errors
            assert "not enough memory" in line
            n_errors += 1
    assert n_errors
    assert score(2**40) == (0, [])
