"""The names that other programs import, and what importing their packages loads."""

import subprocess
import sys

import pytest


def test_the_packages_export_them() -> None:
    from pipeline.bundles import Bundle
    from pipeline.bundles.bundle import Bundle as defined
    from pipeline.scoring import score
    from pipeline.scoring.run import score as called

    assert (Bundle, score) == (defined, called)


@pytest.mark.parametrize("name", ["pipeline.bundles", "pipeline.scoring", "pipeline.scoring.cli"])
def test_importing_them_loads_nothing_heavy(name: str) -> None:
    loaded = f"import sys, {name}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", loaded], capture_output=True, text=True, check=True
    )
    assert not {"pyarrow", "onnxruntime", "duckdb", "numpy"} & set(done.stdout.split())
    with pytest.raises(ImportError, match="no_such_name"):
        exec(f"from {name} import no_such_name")
