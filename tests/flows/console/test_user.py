"""What `fearec recommend` prints."""

from datetime import UTC, date, datetime
from typing import Any

import pytest

from flows.console.user import print_user
from pipeline.config.settings import Settings
from pipeline.warehouse.lookup import Event, Recommended

DAY = date(2026, 7, 1)


def test_ids_are_printed_as_they_are(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    user, item = "[/x]:smile:", "[red]x[/]\\"
    found = Recommended(user, DAY, "v1", "model", ((item, 0.5),))
    event = Event(item, datetime(2026, 6, 30, tzinfo=UTC))
    monkeypatch.setattr("flows.console.user.history_of", lambda *args: [event])
    monkeypatch.setattr("flows.console.user.recommended_to", lambda *args: [found])
    print_user(Settings(), user, None)
    out = capsys.readouterr().out
    assert f"Last events of {user}" in out
    assert out.count(item) == 2
