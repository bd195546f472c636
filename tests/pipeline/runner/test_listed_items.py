"""A night with items listed per user, with real training on data small enough for seconds."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.score_section import ScoreSettings
from pipeline.config.settings import load_settings
from pipeline.errors import ConfigError, TableCheckError
from pipeline.results import PairCounts
from pipeline.runner.nightly import FinishedRun, nightly
from pipeline.runner.stages import Score
from pipeline.scoring.user_list_reader import read_user_lists
from pipeline.scoring.user_lists import UserLists
from pipeline.warehouse.tables import dataset_of, open_table
from tests.helpers.stages import table_uri
from tests.helpers.tiny_night import ITEMS, USERS, write_logs, write_settings

pytestmark = pytest.mark.usefixtures("shared_traces", "without_reports")

DAY = date(2026, 7, 1)


def write_pairs(path: Path, pairs: dict[int, list[int]]) -> None:
    rows = (f"{user},item-{item:02d}" for user, items in pairs.items() for item in items)
    path.write_text("user_id,item_id\n" + "\n".join(rows))


def overlooking(settings: ScoreSettings, *given: Any) -> UserLists:
    return read_user_lists(settings.model_copy(update={"exclude": None}), *given)


def test_a_night_recommends_what_is_listed_and_follows_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_logs(tmp_path / "logs")
    own, never = tmp_path / "own.csv", tmp_path / "never.csv"
    write_pairs(own, {user: [user % 5, user % 5 + 5] for user in range(1, USERS + 3)})
    write_pairs(never, {user: [user % 5] for user in range(0, USERS, 2)} | {3: [ITEMS + 7]})
    given = [f"score.candidates={own}", f"score.exclude={never}", "score.exclude_seen=false"]
    given.append("checks.short_lists={limit=1.0,action='off'}")
    settings = load_settings(write_settings(tmp_path), given)

    def redone(night: FinishedRun) -> list[str]:
        return [record.stage for record in night.results.records if not record.reused]

    def recommended() -> dict[int, set[str]]:
        published = open_table(table_uri(settings, "recommendations"))
        assert published is not None
        found: dict[int, set[str]] = {}
        for row in dataset_of(published).to_table(["user_id", "item_id"]).to_pylist():
            found.setdefault(row["user_id"], set()).add(row["item_id"])
        return found

    night = nightly(settings, DAY)
    assert recommended() == {
        user: {f"item-{item:02d}" for item in (user % 5, user % 5 + 5) if item > 4 or user % 2}
        for user in range(1, USERS)
    }
    scored = night.results[Score].result
    assert scored.candidates == PairCounts(absent_users=3, users_without=1)
    assert scored.exclude == PairCounts(unknown_rows=1, users_without=USERS // 2)
    write_pairs(never, {user: [user % 5] for user in range(USERS)})
    assert redone(nightly(settings, DAY)) == ["score", "publish"]
    rows = {user: {f"item-{user % 5 + 5:02d}"} for user in range(1, USERS)}
    assert recommended() == rows

    with monkeypatch.context() as patch:  # as if scoring had overlooked the exclusions
        patch.setattr("pipeline.scoring.run.read_user_lists", overlooking)
        write_pairs(never, {user: [user % 5 + 5] for user in range(USERS)})
        with pytest.raises(TableCheckError, match=r"score\.exclude excludes for their user"):
            nightly(settings, DAY)
    assert recommended() == rows

    write_pairs(never, {-1: [1]})
    with pytest.raises(ConfigError, match=r"none of the users of score\.exclude is in the input"):
        nightly(settings, DAY, force=True)  # before the training
