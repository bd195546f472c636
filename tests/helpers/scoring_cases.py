"""Small logs for the tests of scoring, runs over them, and the answers by brute force."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.bundles.bundle import Bundle
from pipeline.config.score_section import ScoreSettings
from pipeline.config.sections import LogSettings
from pipeline.results import Scored
from pipeline.scoring.output import PartWriter
from pipeline.scoring.run import score

RUN_DATE = date(2026, 11, 20)
START = datetime(2026, 11, 1, tzinfo=UTC)

Log = list[tuple[Any, Any, Any]]


def write_log(path: Path, rows: Log) -> Path:
    users, items, times = zip(*rows, strict=True) if rows else ((), (), ())
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {
            "user_id": pa.array(users, None if rows else pa.string()),
            "item_id": pa.array(items, None if rows else pa.string()),
            "timestamp": pa.array(times, pa.timestamp("us", tz="UTC")),
        }
    )
    pq.write_table(table, path)
    return path


def write_sequences(path: Path, sequences: dict[Any, list[Any]], **columns: Any) -> Path:
    lists = pa.array(list(sequences.values()), pa.list_(pa.string()))
    pq.write_table(pa.table({"user_id": list(sequences), "item_ids": lists, **columns}), path)
    return path


def write_pairs(
    path: Path, pairs: Sequence[tuple[Any, Any]], kinds: tuple[Any, Any] = (None, None)
) -> str:
    """A file of users and items, as `score.candidates` and `score.exclude` take it."""
    users, items = zip(*pairs, strict=True) if pairs else ((), ())
    columns = {"user_id": pa.array(users, kinds[0]), "item_id": pa.array(items, kinds[1])}
    pq.write_table(pa.table(columns), path)
    return str(path)


def events(histories: dict[Any, list[Any]]) -> Log:
    """A log's rows in random order; their times tell the order of each history."""
    rows = [
        (user, item, START + timedelta(hours=hour))
        for user, items in histories.items()
        for hour, item in enumerate(items)
    ]
    return [rows[position] for position in np.random.default_rng(3).permutation(len(rows))]


def random_histories(users: int, seed: int = 0, longest: int = 12) -> dict[str, list[str]]:
    rng = np.random.default_rng(seed)
    return {
        f"user{user:03}": [f"item{item}" for item in rng.integers(1, 46, rng.integers(1, longest))]
        for user in range(users)
    }


def run(inputs: Path | str, bundle: Bundle, out: Path | str, **options: Any) -> Scored:
    named = {
        name: options.pop(name) for name in list(options) if name in ScoreSettings.model_fields
    }
    settings = ScoreSettings(**{"provider": "cpu", "top_k": 5, **named})
    defaults = {"logs": LogSettings(), "run_date": RUN_DATE, "time_zone": "UTC"}
    return score([str(inputs)], bundle, out, settings, **{**defaults, **options})


def rows(out: Path | str) -> dict[Any, list[tuple[str, float]]]:
    """Each user's items and scores in a long output, in the order of the ranks."""
    found: dict[Any, list[tuple[str, float]]] = {}
    for row in pq.read_table(out).to_pylist():
        mine = found.setdefault(row["user_id"], [])
        assert row["rank"] == len(mine) + 1
        mine.append((row["item_id"], row["score"]))
    return found


def brute_force(
    bundle: Bundle,
    history: list[str],
    top_k: int = 5,
    exclude_seen: bool = True,
    allowed: set[str] | None = None,
) -> list[tuple[str, float]]:
    items = bundle.items().to_pylist()
    index = {row["item_id"]: row["item_index"] for row in items}
    table = np.fromfile(bundle.item_table, np.float32).reshape(bundle.n_items, -1)
    known = [index[item] for item in history if item in index]
    eligible = [
        row for row in items if row["popularity"] and (allowed is None or row["item_id"] in allowed)
    ]
    if not known:
        total = sum(row["popularity"] for row in items)
        scored = [(row["popularity"] / total, row) for row in eligible]
    else:
        user = table[known[-bundle.max_length :]].mean(0)
        scored = [
            (float(table[row["item_index"]] @ user), row)
            for row in eligible
            if not (exclude_seen and row["item_index"] in known)
        ]
    scored.sort(key=lambda pair: (-pair[0], pair[1]["item_index"]))
    return [(row["item_id"], value) for value, row in scored[:top_k]]


def assert_rows(found: dict[Any, list[tuple[str, float]]], expected: dict[Any, Any]) -> None:
    assert {user: [item for item, _ in mine] for user, mine in found.items()} == {
        user: [item for item, _ in mine] for user, mine in expected.items() if mine
    }
    for user, mine in found.items():
        np.testing.assert_allclose(
            [value for _, value in mine], [value for _, value in expected[user]], atol=1e-5
        )


class Killed(BaseException):
    pass


def kill_after(monkeypatch: pytest.MonkeyPatch, parts: int, *, when: str) -> None:
    """Stop a run as a kill would: between two parts, or after a part and before the manifest."""
    original = getattr(PartWriter, when)
    calls = 0

    def stop(*args: Any, **kwargs: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > parts:
            raise Killed
        original(*args, **kwargs)

    monkeypatch.setattr(PartWriter, when, stop)


def kill_at(
    monkeypatch: pytest.MonkeyPatch, step: int, changes: Iterable[tuple[type, str]]
) -> None:
    """Stop a run after `step` calls of these methods, which change its folder."""
    left = iter(range(step))

    def counted(original: Callable[..., None]) -> Callable[..., None]:
        def change(*args: Any) -> None:
            if next(left, None) is None:
                raise Killed
            original(*args)

        return change

    for owner, name in changes:
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
