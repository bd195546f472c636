"""What is gathered for the report of a night, of each kind."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.reporting.content import Content, gather
from tests.helpers.report_cases import DAYS, LISTS, ReportCase, case_in, evaluated, write_nights


@pytest.fixture
def case(tmp_path: Path) -> ReportCase:
    case = case_in(tmp_path)
    write_nights(case)
    return case


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> ReportCase:
    """For tests that change nothing."""
    case = case_in(tmp_path_factory.mktemp("nights"))
    write_nights(case)
    return case


def content(case: ReportCase, day: int = 2) -> Content:
    return gather(case.settings, case.locations(DAYS[day]))


def test_a_date_without_a_run_has_no_report(nights: ReportCase) -> None:
    with pytest.raises(InputError, match=f"fearec nightly --date {DAYS[3]}"):
        content(nights, 3)


def test_a_promoted_night_has_its_metrics_curves_and_lists(nights: ReportCase) -> None:
    found = content(nights)
    assert found.row["decision"] == "promoted"
    assert [row["decision"] for row in found.earlier] == ["first", "promoted"]
    assert found.evaluated == evaluated()
    assert found.notes == ("close: +.05",)
    assert found.curves == {"NDCG@10": [(1, 0.1), (2, 0.2)], "loss": [(1, 5.0), (2, 4.5)]}
    assert found.published == [DAYS[2], DAYS[1]]
    assert [each.run_date for each in found.lists] == [DAYS[2], DAYS[1]]
    assert found.titles is None
    assert found.disk["recommendations"] > 0


def test_histories_that_are_gone_are_left_out(case: ReportCase) -> None:
    known = content(case)
    shutil.rmtree(case.warehouse.table("interactions"))
    found = content(case)
    assert [each.now for each in found.users] == [each.now for each in known.users]
    assert any(each.history for each in known.users)
    assert not any(each.history for each in found.users)
    (line,) = set(found.missing) - set(known.missing)
    assert line.startswith("The histories of the users are left out: ")


HEADER = "epoch,step,NDCG@10,loss\n"


@pytest.mark.parametrize(
    ("logs", "curve", "missing"),
    [
        ([], None, ["The training's curves are left out: it has no log of its epochs as CSV."]),
        ([HEADER + "0,9,,5.0\n1,19,,4.5\n", HEADER + "1,19,,4.4\n2,29,,4.0\n"],
         [(1, 5.0), (2, 4.4), (3, 4.0)], []),
        ([HEADER + "0,9,,5.0\n1,1", HEADER + "1,19,,4.4\n"],
         [(2, 4.4)], ["The training's curves begin with epoch 2: the log before is gone."]),
        ([HEADER + "0,9,,5.0\n", *[HEADER + f"{n},9,,{n}.0\n" for n in range(1, 11)]],
         [(1, 5.0), *[(n + 1, n) for n in range(1, 11)]], []),
    ],
)  # fmt: skip
def test_a_resumed_training_has_the_curves_of_all_its_attempts(
    logs: list[str], curve: list[tuple[int, float]] | None, missing: list[str], tmp_path: Path
) -> None:
    case = case_in(tmp_path)
    case.run(DAYS[2], stage_seconds={"train": 9.0})
    case.train(DAYS[2], *logs)
    found = content(case)
    assert found.curves.get("loss") == curve
    assert list(found.missing) == missing


def test_users_have_their_history_and_both_lists(case: ReportCase) -> None:
    after = datetime(2026, 7, 1, 0, tzinfo=UTC)  # the first instant after the run date
    case.interact([(0, "later", after)])
    known = datetime(2026, 6, 29, 2, tzinfo=UTC)  # to the run of the list before
    case.interact([(0, "item-1", known)])
    assert {event.item_id for event in content(case).users[0].taken} == {"item-0"}
    case = case_in(case.settings.work_dir.parent / "others")
    write_nights(case)
    for user in content(case).users:
        assert [event.item_id for event in user.history] == [f"item-{int(user.user_id) % 5}"]
        assert user.now is not None
        assert user.before is not None
        assert [item for item, _ in user.before.items] == [item for item, _ in LISTS[user.user_id]]
        assert user.now.items[::-1] == user.before.items


def test_bad_rows_are_counted_by_reason_with_their_first_examples(nights: ReportCase) -> None:
    most, least = content(nights).bad_rows
    assert (most.reason, most.count) == ("null user_id", 5)
    assert [row["source_row"] for row in most.examples] == [0, 1, 2]
    assert least.count == 1
    assert least.examples[0] == {
        "user_id": "7", "item_id": None, "timestamp": "2026-06-30 12:00:00",
        "source_file": "dt=2026-06-30/a.parquet", "source_row": 9,
    }  # fmt: skip
    assert content(nights, 1).bad_rows == []


def test_the_first_night_has_nothing_before_it(tmp_path: Path) -> None:
    case = case_in(tmp_path)
    case.run(DAYS[0], "first", champion=None, realised=None)
    case.publish(DAYS[0], LISTS)
    case.interact([(0, "item-1", datetime(2026, 6, 28, tzinfo=UTC))])
    found = content(case, 0)
    assert (found.earlier, found.published) == ([], [DAYS[0]])
    assert all(user.before is None and user.now is not None for user in found.users)


def test_without_the_work_folder_the_metrics_are_those_of_the_table(nights: ReportCase) -> None:
    found = content(nights, 1)
    assert found.evaluated is not None
    assert found.evaluated.model == evaluated().model
    assert found.evaluated.differences == evaluated().differences
    low, high = found.evaluated.intervals["model"]["NDCG@10"]
    assert (low, high) == pytest.approx((0.2, 0.4))
    assert found.evaluated.headline == ("NDCG@10", 0.3, "co-occurrence", 0.2)
    assert "train, evaluate" in found.missing[0]
    assert found.curves == {}


def test_a_run_shows_nothing_of_an_earlier_run_of_its_date(case: ReportCase) -> None:
    ended = datetime(2026, 6, 30, 9, tzinfo=UTC)
    nothing = {"metrics": None, "champion": None, "candidate": None, "finished_at": ended}
    stages = {"ingest": 1.0, "prepare": 1.0}
    case.run(DAYS[2], "failed", error="no space", stage_seconds=stages, **nothing)
    found = content(case)
    assert found.row["error"] == "no space"
    assert found.evaluated is None
    assert (found.curves, found.notes) == ({}, ())


def test_a_night_that_published_nothing_shows_what_is_served(case: ReportCase) -> None:
    case.run(DAYS[3], "failed", error="no space", stage_seconds={})
    found = content(case, 3)
    assert found.published == [DAYS[2], DAYS[1]]
    assert found.users[0].now is not None
    assert found.users[0].now.run_date == DAYS[2]


def test_titles_are_those_of_the_items_shown(tmp_path: Path) -> None:
    table = tmp_path / "items.csv"
    table.write_text("item_id,title\nitem-1,One\nelsewhere,Two\n")
    case = case_in(tmp_path, items={"path": str(table)})
    write_nights(case)
    assert content(case).titles == {"item-1": "One"}
    table.unlink()
    found = content(case)
    assert found.titles is None
    assert any(line.startswith("Titles are left out") for line in found.missing)
