"""`score.exclude_seen` in all its forms."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.score_section import ScoreSettings
from pipeline.config.seen_rule import SeenEvents, SeenRule
from pipeline.config.settings import load_settings
from pipeline.dates import RunDay
from pipeline.errors import ConfigError

DAY = date(2026, 7, 1)


@pytest.mark.parametrize(
    ("toml", "kept", "rule"),
    [
        ("true", True, None),
        ("false", False, None),
        ('"30 days"', ("30 days",), SeenRule(30)),
        ('" 1  Day "', ("1 days",), SeenRule(1)),
        ('"purchase"', ("purchase",), SeenRule(None, ("purchase",))),
        ('"30 daisies"', ("30 daisies",), SeenRule(None, ("30 daisies",))),
        ('"3"', ("3",), SeenRule(None, ("3",))),
        ('["30 days", "b", "a, c", "b"]', ("a, c", "b", "30 days"), SeenRule(30, ("a, c", "b"))),
    ],
)
def test_each_form_comes_from_a_file_a_flag_and_the_environment(
    toml: str, kept: Any, rule: SeenRule | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "fearec.toml"
    file.write_text(f"[score]\nexclude_seen = {toml}\n")
    found = [load_settings(file), load_settings(None, [f"score.exclude_seen={toml}"])]
    monkeypatch.setenv("FEAREC_SCORE__EXCLUDE_SEEN", toml)
    found.append(load_settings())
    for settings in found:
        assert (settings.score.exclude_seen, settings.score.seen_rule) == (kept, rule)
        assert settings.score.result_settings()["exclude_seen"] == (
            kept if rule is None else list(kept)
        )
        again = ScoreSettings(**settings.score.model_dump())
        assert again == settings.score


@pytest.mark.parametrize("text", ["30 days", "purchase", "true"])
def test_a_flag_and_the_environment_need_no_quotes(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = True if text == "true" else (text,)
    assert load_settings(None, [f"score.exclude_seen={text}"]).score.exclude_seen == expected
    monkeypatch.setenv("FEAREC_SCORE__EXCLUDE_SEEN", text)
    assert load_settings().score.exclude_seen == expected


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("3", "must be true, false, an age"),  # days, or a type of event?
        ("[]", "must be true, false, an age"),
        ('""', "must be true, false, an age"),
        ('["a", " "]', "must be true, false, an age"),
        ('["a", 3]', "must be true, false, an age"),
        ("{ days = 3 }", "must be true, false, an age"),
        ('["3 days", "4 days"]', "one age at most"),
        ("purchase, 3 days", "types and an age are a list"),
        ('"0 days"', "1 to 36500 days"),
        ('"40000 days"', "1 to 36500 days"),
    ],
)
def test_what_is_none_of_them_is_one_line(toml: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        load_settings(None, [f"score.exclude_seen={toml}"])
    assert "score.exclude_seen" in str(raised.value)


def test_days_end_with_the_run_date_in_its_time_zone() -> None:
    settings = load_settings(None, ["score.exclude_seen=2 days", "time_zone=Asia/Tokyo"])
    since = datetime(2026, 6, 29, 15, tzinfo=UTC)  # midnight of June 30
    assert settings.score.seen_on(RunDay(DAY, settings.time_zone)) == SeenEvents(since, ())
    assert load_settings().score.seen_on(None) is None
