"""What `fearec recommend` prints."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.console.user import find_user, print_user, user_result
from pipeline.config.settings import Settings
from pipeline.warehouse.lookup import Event, Recommended

DAY = date(2026, 7, 1)


def test_ids_are_printed_as_they_are(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    user, item = "[/x]:smile:", "[red]x[/]\\"
    found = Recommended(user, DAY, "v1", "model", ((item, 0.5),), ("model",))
    event = Event(item, datetime(2026, 6, 30, tzinfo=UTC))
    monkeypatch.setattr("flows.console.user.history_of", lambda *args: [event])
    monkeypatch.setattr("flows.console.user.recommended_to", lambda *args: [found])
    print_user(find_user(Settings(), user, None))
    out = capsys.readouterr().out
    assert f"Last events of {user}" in out
    assert out.count(item) == 2


def test_titles_are_printed_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    title = "[red]x[/]:smile:\\"
    table = tmp_path / "items.parquet"
    pq.write_table(pa.table({"item_id": ["a"], "title": [title]}), table)
    rows, sources = (("a", 0.5), ("b", 0.4)), ("promoted", "model")
    found = Recommended("u", DAY, "v1", "model", rows, sources, ("a", "b"))
    event = Event("a", datetime(2026, 6, 30, tzinfo=UTC))
    monkeypatch.setattr("flows.console.user.history_of", lambda *args: [event])
    monkeypatch.setattr("flows.console.user.recommended_to", lambda *args: [found])
    user = find_user(Settings(items={"path": table}), "u", None)
    print_user(user)
    out = capsys.readouterr().out
    assert out.count(title) == 3
    assert out.count("promoted") == out.count("because") == 1
    assert user_result(user)["recommended"]["items"] == [
        {"item_id": "a", "title": title, "score": 0.5, "source": "promoted", "because": "a"},
        {"item_id": "b", "title": None, "score": 0.4, "source": "model", "because": "b"},
    ]
