"""The settings reference says what the settings say of themselves, and what is shown runs."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.settings_reference import reference, settings, written


def test_the_reference_is_what_the_settings_say() -> None:
    assert written() == reference(), "run python -m tests.helpers.settings_reference"


@pytest.mark.parametrize("name", [name for name, _ in settings()])
def test_every_setting_describes_itself(name: str) -> None:
    field = dict(settings())[name]
    assert field.description


def test_the_documented_way_to_read_a_table_uses_arrows_own_file_system(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    text = (root / "pipeline" / "README.md").read_text(encoding="utf-8")
    (code,) = (
        block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "DeltaTable" in block
    )
    shutil.copytree(root / "tests/golden/version_0_1/warehouse", tmp_path / "warehouse")
    code = code.replace("date(2026, 7, 1)", "date(2026, 6, 3)")
    # Through a file system of Python's, Arrow's threads may call an interpreter that is ending.
    code += "print(table.filesystem.base_fs.type_name, rows.num_rows)\n"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "local 60\n"
