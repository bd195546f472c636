"""The pages: the decision first, each kind of night complete, and no id taken for markup."""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pipeline.reporting.content import gather
from pipeline.reporting.page import index_page, night_page
from pipeline.warehouse.runs import runs_before
from tests.helpers.report_cases import (
    DAYS,
    LISTS,
    NASTY,
    ReportCase,
    case_in,
    check_row,
    held,
    write_nights,
)

VOID = {"meta", "link", "br"}


@dataclass
class Outline(HTMLParser):
    """What a reader, and one who hears the page, finds on it."""

    text: str = ""
    headings: list[tuple[int, str]] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    unlabelled: int = 0
    tags: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.add(tag)
        self.ids += [given["id"]] if given.get("id") else []
        self.links += [given["href"] or ""] if tag == "a" else []
        if re.fullmatch("h[1-6]", tag):
            self.headings.append((int(tag[1]), ""))
        self.unlabelled += tag == "svg" and not given.get("aria-label")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data
        if self.headings and self.open and re.fullmatch("h[1-6]", self.open[-1]):
            level, text = self.headings[-1]
            self.headings[-1] = level, text + data


def outline(html: str) -> Outline:
    found = Outline()
    found.feed(html)
    found.close()
    assert found.open == []
    assert len(found.ids) == len({*found.ids})
    assert found.unlabelled == 0
    levels = [level for level, _ in found.headings]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    return found


def page(case: ReportCase, day: int = 2) -> tuple[str, Outline]:
    html = night_page(gather(case.settings, case.locations(DAYS[day])), DAYS)
    return html, outline(html)


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> ReportCase:
    case = case_in(tmp_path_factory.mktemp("nights"))
    write_nights(case)
    return case


@pytest.fixture(scope="module")
def promoted(nights: ReportCase) -> tuple[str, Outline]:
    """The page of the promoted night."""
    return page(nights)


def test_the_decision_comes_first(promoted: tuple[str, Outline]) -> None:
    _, found = promoted
    said = "promoted This run's model is the new champion and serves."
    assert said in re.sub(r"\s+", " ", found.text)
    assert found.text.index("new champion") < found.text.index("Data and checks")
    assert "close: +.05" in found.text


def test_a_page_has_every_section_and_a_link_to_each(promoted: tuple[str, Outline]) -> None:
    _, found = promoted
    sections = [name for level, name in found.headings if level == 2]
    assert sections == [
        "Data and checks", "Quality", "What users then took", "Lists", "Some users", "Training",
        "Time and disk", "Commands",
    ]  # fmt: skip
    inside = {link.removeprefix("#") for link in found.links if link.startswith("#")}
    assert inside <= {*found.ids}
    assert {"checks", "quality", "realised", "lists", "users", "training"} <= inside
    assert {"../index.html", f"../{DAYS[1]}/report.html"} <= {*found.links}


def test_a_page_needs_nothing_else(promoted: tuple[str, Outline]) -> None:
    html, found = promoted
    assert not found.tags & {"script", "img", "iframe", "object", "form"}
    assert "The newest recommendations are" not in found.text
    assert "Content-Security-Policy" in html
    addresses = {*re.findall(r"https?://[^\"' <]+", html)}
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_metrics_have_intervals_and_stand_beside_the_others(
    promoted: tuple[str, Outline],
) -> None:
    text = re.sub(r"\s+", "", promoted[1].text)
    assert "metricmodelchampionpopularityco-occurrence" in text
    assert "NDCG@100.30000.250to0.3500.25000.10000.050to0.1500.2000" in text
    assert "2,000users,ofwhomthemodelcanserve1,990" in text
    assert text.index("HR@10") < text.index("1moremetric") < text.index("NDCG@5")


def test_quarantine_and_realised_hits_are_there(promoted: tuple[str, Outline]) -> None:
    text = promoted[1].text
    assert "5 rows: null user_id" in text
    assert "1 row: null item_id" in text
    assert "50 users had a list" in text
    assert "40.0%" in text


@pytest.mark.usefixtures("without_charts")
def test_what_changed_in_a_list_is_marked(promoted: tuple[str, Outline], tmp_path: Path) -> None:
    assert "new" not in re.findall(r'<span class="tag">(.*?)</span>', promoted[0])
    case = case_in(tmp_path)
    write_nights(case)
    case.run(DAYS[3])
    changed = {user: [("item-99", 9.0), *items] for user, items in LISTS.items()}
    case.publish(DAYS[3], changed)
    tags = re.findall(r'(item-\d+)</code> <span.*?<span class="tag">(new|taken)', page(case, 3)[0])
    assert [item for item, tag in tags if tag == "new"] == ["item-99"] * 4
    assert ("item-0", "taken") in tags  # which user 0 took


@dataclass(frozen=True)
class Kind:
    """A night of a kind, and what its page says."""

    decision: str
    columns: dict[str, Any]
    says: tuple[str, ...]
    says_not: tuple[str, ...] = ()


KINDS = {
    "held by the gate": Kind(
        "held",
        {"model_version": "old", "reasons": ["NDCG@10 .01 is below the champion's"]},
        ("the champion does", "below the champion's", "fearec models diff old new",
         f"fearec nightly --date {DAYS[2]} --force-publish"),
        ("models rollback",),
    ),
    "held by checks": Kind(
        "held",
        {"model_version": "old", "candidate": None, "metrics": None, "realised": None,
         "reasons": ["90% are new"], "checks": held("90% are new"),
         "stage_seconds": {"ingest": 1.0, "prepare": 1.0, "check": 0.1, "gate": 0.1}},
        ("trained no model", "90% are new", "1 held", "This run measured no model.",
         "--force-publish"),
        ("models diff", "What users then took", "Training"),
    ),
    "held by a training that failed": Kind(
        "held",
        {"model_version": "old", "candidate": None, "metrics": None,
         "reasons": ["train: the training diverged"]},
        ("trained no model", "the training diverged", f"fearec nightly --date {DAYS[2]}"),
        ("--force-publish",),
    ),
    "failed": Kind(
        "failed",
        {"model_version": None, "candidate": None, "champion": None, "metrics": None,
         "checks": None, "table_checks": None, "realised": None, "n_recommendations": None,
         "n_interactions": None, "last_event": None, "error": "work: no space",
         "stage_seconds": {"ingest": 1.0, "prepare": 2.0}},
        ("as it was", "last finished stage is prepare", "work: no space",
         f"fearec nightly --date {DAYS[2]}"),
        ("Serving", "--force-publish"),
    ),
    "failed at once": Kind(
        "failed", {"error": "x", "stage_seconds": {}, "metrics": None}, ("It finished no stage",)
    ),
    "forced": Kind(
        "forced", {"table_checks": [check_row("overlap", "overruled", "overlap: 0.01")]},
        ("A person had this model published", "1 overruled", "overlap: 0.01", "models rollback"),
    ),
    "rolled back": Kind("rolled back", {}, ("went back to an earlier model",)),
    "first": Kind(
        "first", {"champion": None, "champion_metrics": None, "difference": {}},
        ("The first model serves",), ("models diff", "models rollback"),
    ),
    "warned": Kind(
        "promoted", {"checks": [check_row("users", "warned", "users: 3, far fewer")]},
        ("1 warned", "users: 3, far fewer"),
    ),
}  # fmt: skip


@pytest.mark.usefixtures("without_charts")
@pytest.mark.parametrize("name", KINDS)
def test_each_kind_of_night_has_a_page(tmp_path: Path, name: str) -> None:
    kind, case = KINDS[name], case_in(tmp_path)
    case.run(DAYS[2], kind.decision, **kind.columns)
    text = re.sub(r"\s+", " ", page(case)[1].text)
    assert kind.decision in text
    for said in kind.says:
        assert said in text
    for said in kind.says_not:
        assert said not in text
    assert "No recommendations are published yet" in text


@pytest.mark.usefixtures("without_charts")
def test_a_night_that_published_nothing_names_what_is_served(tmp_path: Path) -> None:
    case = case_in(tmp_path)
    write_nights(case)
    case.run(DAYS[3], "failed", error="x", stage_seconds={})
    assert f"The newest recommendations are of {DAYS[2]}." in page(case, 3)[1].text


def test_ids_titles_and_messages_are_text(tmp_path: Path) -> None:
    table = tmp_path / "items.csv"
    quoted = NASTY.replace('"', '""')
    table.write_text(f'item_id,title\n"{quoted}","{quoted}"\n')
    case = case_in(tmp_path, items={"path": str(table)})
    for day in DAYS[:2]:
        case.run(
            day, "held", reasons=[NASTY], error=NASTY, protocol=NASTY, model_version=NASTY,
            checks=held(NASTY), stage_seconds={NASTY: 1.0, "train": 1.0},
            metrics={NASTY: 0.5, "NDCG@10": 0.1},
        )  # fmt: skip
        case.publish(day, {NASTY: [(NASTY, 1.0), ("x" * 5000, 0.5)]})
    case.train(DAYS[1], 'epoch,step,"a<b>$x$"\n0,1,0.5\n1,2,0.6\n')
    case.interact([(NASTY, NASTY, datetime(2026, 6, 28, tzinfo=UTC))])
    bad = {"user_id": NASTY, "item_id": NASTY, "timestamp": NASTY, "reason": NASTY}
    case.quarantine(DAYS[1], [{**bad, "source_file": NASTY, "source_row": 1}])
    html, found = page(case, 1)
    index = index_page(runs_before(case.warehouse, DAYS[2], 9), {DAYS[1]})
    for each in (html, index):
        assert "<script" not in each
        assert "49" not in re.sub(r"<svg.*?</svg>|[\d.]+49|49[\d.]+", "", each, flags=re.S)
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", each)
    assert (
        r"<script>alert(1)</script>&amp;\"'$x_1$ \x1b[31m\u202e\n{{ 7 * 7 }}".replace(r"\"", '"')
        in found.text
    )
    assert outline(index).unlabelled == 0


def test_the_index_has_a_row_per_run_date_newest_first(nights: ReportCase) -> None:
    rows = runs_before(nights.warehouse, DAYS[3], 9)
    html = index_page(rows, {DAYS[2]})
    found = outline(html)
    assert found.links == ["#content", f"{DAYS[2]}/report.html"]
    table = found.text.partition("newest first")[2]
    places = [table.index(str(day)) for day in DAYS[2::-1]]
    assert places == sorted(places)
    assert "why" not in found.text
    case_rows = [{**rows[0], "reasons": ["x" * 900]}, *rows[1:]]
    assert "x" * 200 not in index_page(case_rows, ())


def test_an_index_of_a_thousand_nights_stays_small(nights: ReportCase) -> None:
    (row,) = runs_before(nights.warehouse, DAYS[3], 1)
    rows = [{**row, "run_date": DAYS[0] + timedelta(days=day)} for day in range(1000)]
    html = index_page(rows, {each["run_date"] for each in rows})
    assert len(html) < 600_000
