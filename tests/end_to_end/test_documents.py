"""The settings reference says what the settings say of themselves, and what is shown runs."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.helpers.settings_reference import reference, settings, written


def test_the_reference_is_what_the_settings_say() -> None:
    assert written() == reference(), "run python -m tests.helpers.settings_reference"


def test_every_setting_describes_itself() -> None:
    assert [name for name, field in settings() if not field.description] == []


def test_the_documented_ways_to_read_a_table(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    text = (root / "pipeline" / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    today, view, earlier = [x for x in blocks if "DeltaTable" in x or "latest" in x]
    shutil.copytree(root / "tests/golden/version_0_1/warehouse", tmp_path / "warehouse")
    today = today.replace("date(2026, 7, 1)", "date(2026, 6, 3)")
    # Through a file system of Python's, Arrow's threads may call an interpreter that is ending.
    today += "print(table.filesystem.base_fs.type_name, rows.num_rows)\n"
    view += """
columns = ["user_id", "item_id", "rank"]
found = rows.select(columns).sort_by([("user_id", "ascending"), ("rank", "ascending")])
print(len(latest), latest.fetchall() == [tuple(row.values()) for row in found.to_pylist()])
"""
    # Now it is published again: the table has a version more.
    publish = (
        "from deltalake import write_deltalake\n"
        "write_deltalake(path, rows.slice(0, 7), mode='overwrite', "
        "predicate=\"run_date = '2026-06-03'\")\n"
        "current = DeltaTable(path).to_pyarrow_dataset(filesystem=files)\n"
    )
    earlier = earlier.replace("timedelta(days=1)", "timedelta(seconds=2)")
    earlier += "print(before.num_rows - current.count_rows())\n"
    code = today + view + "import time\ntime.sleep(2)\n" + publish + earlier
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "local 60"
    assert lines[1] == "60 True"
    assert lines[-1] == "53"
