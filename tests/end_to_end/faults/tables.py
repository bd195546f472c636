"""What a warehouse and an output hold, for comparison; and what killed runs left beside that."""

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.schema import (
    INTERACTIONS,
    LOG_FILES,
    QUARANTINE,
    RECOMMENDATIONS,
    RUN_DATE,
    RUNS,
    VOCABULARY,
)
from pipeline.storage.prepared_folder import prepared_hash
from pipeline.warehouse.tables import dataset_of, open_table

CHAMPION = "models/champion.json"
CANDIDATE = f"{CHAMPION}, candidate"

Rows = list[str]
Tables = dict[str, Rows]

# Columns that differ from run to run: times, and versions of tables.
_DIFFER = {
    RECOMMENDATIONS: {"generated_at"},
    LOG_FILES: {
        "n_not_kept", "interactions_id", "interactions_version", "quarantine_id",
        "quarantine_version", "read_on",
    },
}  # fmt: skip
_OF_RUNS = (
    RUN_DATE, "decision", "model_version", "parent", "n_users", "n_items", "n_interactions",
    "n_recommendations", "n_fallback", "protocol", "metrics", "popularity_metrics",
)  # fmt: skip
_OF_INGEST = (RUN_DATE, "n_added", "n_duplicates", "n_quarantined")
# What the newest row of a run says of its ingest, which is nothing new where others did it.
COUNTS = f"{RUNS}, ingest"
INGEST = "ingest.json"
_COUNTS = (
    "files", "rows", "added", "duplicates", "quarantined", "withdrawn", "quarantined_by_reason",
    "filtered",
)  # fmt: skip
# Names that are new each time.
_RANDOM = (
    (re.compile(r"part-\d+-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "part-N-UUID"),
    (re.compile(r"_delta_log/\d+"), "_delta_log/N"),
    (re.compile(r"^work-2/"), "work/"),  # of the second of two machines
)
PAGE = 4096  # bytes, of which a file takes whole ones
_TWO_DAYS = 2 * 86_400


def tables_of(warehouse: Path) -> Tables:
    """The rows of every table as sorted text, the published models, and the candidate."""
    found = {
        name: _rows(warehouse / name, _DIFFER.get(name, set()))
        for name in (INTERACTIONS, QUARANTINE, LOG_FILES, VOCABULARY, RECOMMENDATIONS)
    }
    runs = _newest_runs(warehouse / RUNS)
    for name, columns in ((RUNS, _OF_RUNS), (COUNTS, _OF_INGEST)):
        found[name] = sorted(repr({column: row[column] for column in columns}) for row in runs)
    try:
        registry = json.loads((warehouse / CHAMPION).read_bytes())
        # A run that ends between the gate and publish has registered its candidate alone.
        found[CANDIDATE] = [repr(registry.pop("candidate", None))]
        if registry.get("model_version"):
            found[CHAMPION] = [repr(registry)]
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        found[CHAMPION] = [f"unreadable: {error}"]
    return found


def without_counts(tables: Tables) -> Tables:
    """The tables or results but for what the run says of its ingest."""
    return {name: rows for name, rows in tables.items() if name not in (COUNTS, INGEST)}


def versions_of(path: Path) -> list[Rows]:
    """The rows of a table in each of its versions."""
    table = open_table(str(path))
    last = -1 if table is None else table.version()
    return [_rows(path, set(), version) for version in range(last + 1)]


def results_of(work: Path) -> Tables:
    """What a run date's work folder says of its ingest, and the hash of its prepared histories."""
    found = {}
    if (work / INGEST).exists():
        result = json.loads((work / INGEST).read_bytes())["result"]
        found[INGEST] = [f"{name}={result[name]}" for name in sorted(result) if name in _COUNTS]
    if (work / "prepared").exists():
        found["prepared"] = [prepared_hash(work / "prepared")]
    return found


def output_of(folder: Path) -> Rows:
    """The rows of an output of `fearec-score` in their order."""
    files = sorted(folder.glob("part-*.parquet"))
    every = (pq.read_table(file).drop_columns(["generated_at"]).to_pylist() for file in files)
    return [repr(row) for rows in every for row in rows]


def difference(found: Tables, expected: Tables) -> str:
    """The first difference in words; empty where there is none."""
    for name in sorted({*found, *expected}):
        now, then = found.get(name, []), expected.get(name, [])
        if now != then:
            only = next(iter(set(now) ^ set(then)), "only in their number")
            return f"{name}: {len(now)} rows for {len(then)}, differing {only[:300]}"
    return ""


def neither(found: Tables, before: Tables, after: Tables) -> str:
    """The first table that is neither as it was nor as it shall be; empty where there is none."""
    for name, rows in found.items():
        if rows not in (before.get(name, []), after.get(name, [])):
            return f"{name} is a mixture: {difference({name: rows}, {name: after.get(name, [])})}"
    return ""


def names_in(folder: Path) -> set[str]:
    """The relative paths of all files and empty folders, random parts of names left out.

    A training's logs are left out, which are for people: Lightning begins them anew.
    """
    found = set()
    for path in folder.rglob("*"):
        if "logs" in path.parts[-3:] or (path.is_dir() and any(path.iterdir())):
            continue
        name = str(path.relative_to(folder))
        for pattern, word in _RANDOM:
            name = pattern.sub(word, name)
        found.add(name)
    return found


def size_of(folder: Path) -> int:
    """The bytes that the files in a folder take on a disk."""
    sizes = (path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return sum(-(-size // PAGE) * PAGE for size in sizes)


def make_old(folder: Path) -> None:
    """Give everything in a folder the time of two days ago, as if nobody had touched it since."""
    then = time.time() - _TWO_DAYS
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (then, then), follow_symlinks=False)


def _rows(path: Path, differ: set[str], version: int | None = None) -> Rows:
    table = open_table(str(path), version)
    if table is None:
        return []
    rows = dataset_of(table)
    columns = [name for name in rows.schema.names if name not in differ]
    return sorted(map(repr, rows.to_table(columns).to_pylist()))


def _newest_runs(path: Path) -> list[dict[str, Any]]:
    """The newest row of every run date that did not fail."""
    table = open_table(str(path))
    if table is None:
        return []
    rows = dataset_of(table).to_table().sort_by("finished_at").to_pylist()
    newest = {row[RUN_DATE]: row for row in rows if row["decision"] != "failed"}
    return list(newest.values())
