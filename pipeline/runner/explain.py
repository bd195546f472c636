"""`fearec recommend USER --explain ITEM`: why an item is in a user's list, or is not.

The answer is computed again, for one user, from what the run left: its model, its prepared
histories, and the settings in the manifest of its scored parts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.score_section import ScoreSettings
from pipeline.config.settings import Settings
from pipeline.dates import RunDay, days_before
from pipeline.errors import InputError, ResumeError
from pipeline.logs.conversion import widest_id_type
from pipeline.results import Explained, Reason
from pipeline.rules.attributes import needed_attributes
from pipeline.rules.new_items import new_items
from pipeline.rules.user_segments import user_segments
from pipeline.runner.failures import storage_failures
from pipeline.runner.placement_reasons import capped_reason, new_reason, placed_reason
from pipeline.runner.prepared_runs import PreparedRun, ServedRun, served_run
from pipeline.schema import ITEM_ID, USER_ID
from pipeline.scoring.eligibility import eligible_items
from pipeline.scoring.item_rules import (
    ALLOW,
    DENY,
    RETIRED,
    UNTRAINED,
    WHERE,
    LeftOutItems,
    left_out_items,
)
from pipeline.scoring.manifest import Manifest, read_manifest
from pipeline.scoring.placement import place_item
from pipeline.scoring.prepared_reader import PreparedHistories
from pipeline.scoring.resume_keys import changed_files, rule_file_hashes
from pipeline.scoring.scorer import open_scorer
from pipeline.scoring.segment_scorer import SegmentScorer
from pipeline.scoring.user_histories import UserHistories
from pipeline.scoring.user_list_reader import read_user_lists
from pipeline.scoring.user_lists import UserLists
from pipeline.storage.folders import open_folder
from pipeline.storage.prepared_folder import prepared_hash
from pipeline.warehouse.lookup import Id, as_id, last_event_with, recommended_to


def explain(
    settings: Settings, user_id: str, item_id: str, run_date: date | None = None
) -> Explained:
    """Explain why an item is in a user's list of a run date, or is not.

    Args:
        settings: Whose warehouse and work folder; of `score` only `provider`, `batch_size` and
            `threads` are used, the others are those of the run. The items table is `items.path`,
            that of the users `users.path`.
        user_id: As in the logs.
        item_id: As in the logs.
        run_date: Default the newest that a model serves.

    Raises:
        InputError: no model serves the run date, what its run left is not on this machine, or an
            id is none.
        BusyError: another run works on the run date.
        FearecError: the model, the histories, the tables or the files of rules cannot be used.
    """
    with storage_failures(settings):
        run = served_run(settings, run_date, None)
        manifest = _manifest(run)
        score = _recorded(manifest, settings)
        similar_by = tuple(manifest.resume_key.settings.get("similar_by", ()))
        run_day = RunDay(run.locations.run_date, settings.time_zone)
        with run.prepared(score.seen_on(run_day)) as prepared:
            user = as_id(user_id, prepared.user_type, USER_ID)
            item = as_id(item_id, widest_id_type(run.item_ids.type), ITEM_ID)
            question = _Question(settings, run, prepared, score, similar_by, run_day, user, item)
            reasons = tuple(question.reasons())
        changed = question.changed(manifest)
    listed = any(reason.name == "listed" for reason in reasons)
    day, version = run.locations.run_date, run.bundle.model_version
    published = recommended_to(run.locations.warehouse, [user], day)
    in_table = any(item == each for row in published for each, _ in row.items)
    if listed != in_table:
        has = "has" if in_table else "lacks"
        changed += (f"the list of the table, which {has} the item",)
    return Explained(user, item, day, version, listed, reasons, changed)


@dataclass(frozen=True)
class _Question:
    """One user and one item.

    Attributes:
        settings: Of the command.
        run: The run date, and its model.
        prepared: Its histories, not yet read.
        score: The settings of the run.
        similar_by: Its `items.similar_by`.
        run_day: The run date.
        user: The user's id.
        item: The item's id.
    """

    settings: Settings
    run: ServedRun
    prepared: PreparedRun
    score: ScoreSettings
    similar_by: tuple[str, ...]
    run_day: RunDay
    user: Id
    item: Id

    def reasons(self) -> Iterator[Reason]:
        """All reasons."""
        histories = _only(self.user, self.prepared.histories)
        if histories is None:
            text = "the user is unknown: no event up to this run date is theirs"
            yield Reason("unknown_user", text, {})
            return
        since = self._days_before(self.score.active_within_days)
        active = PreparedHistories(self.prepared.folder, since)
        if since is not None and self._history(active, self.run.items) is None:
            text = f"the user has no event since {_time(since)} (score.active_within_days ="
            text += f" {self.score.active_within_days}), and so no list"
            yield Reason("inactive_user", text, {"since": since})
            return
        source = PreparedHistories(self.prepared.folder, None)
        items = source.with_last_seen(self.run.items)
        table = self.settings.items.path
        attributes = needed_attributes(items, self.score, table, self.similar_by)
        retired_before = self._days_before(self.score.retire_after_days)
        since = self._days_before(self.score.popular_within_days)
        recent = None if since is None else source.popularity_since(items, since)
        eligibility = eligible_items(
            items, self.score, retired_before, attributes, self.run_day, recent
        )
        every_item = eligibility.with_others(items)
        ids = every_item[ITEM_ID].cast(widest_id_type(self.run.item_ids.type))
        item = pc.index(ids, pa.scalar(self.item, ids.type)).as_py() + 1
        if eligibility.other_ids is not None:  # the user may have taken new items as well
            seen, kinds = self.score.seen_on(self.run_day), self.run.bundle.description.input_types
            whole = PreparedHistories(self.prepared.folder, None, seen, kinds)
            histories = self._history(whole, every_item) or histories
        if item == 0:
            text = f"the item is unknown to model {self.run.bundle.model_version}: it learnt from"
            yield Reason("unknown", f"{text} no event with it{self._perhaps_new}", {})
            return
        where = str(self.prepared.folder)
        user_id = pa.array([self.user], self.prepared.user_type)
        segments = user_segments(self.score, self.settings.users.path, user_id.type, where)
        number = int(segments.of(user_id)[0])
        own = eligibility.of_segment(number)
        new = new_items(self.score, attributes, self.run_day)
        left_out = left_out_items(items, self.score, retired_before, attributes, new)
        if is_left_out := not eligibility.is_new[item] and bool(left_out.rules_of(item)):
            yield from self._of_rules(left_out, item, retired_before)
        is_seen = self.score.exclude_seen and item in histories.seen().items
        if is_seen:
            yield self._seen()
        lists = read_user_lists(self.score, source, every_item, self.settings.resources)
        unlisted = list(self._of_lists(lists, histories, item))
        yield from unlisted
        if is_seen or unlisted or is_left_out:
            return
        if not (own.is_new[item] or own.eligible[item : item + 1].any()):
            segment = self.score.segment[number - 1]
            text = f"not true for it is where of the user's segment {segment.name!r}:"
            yield Reason("filtered", f"{text} {segment.where}", {"rule": "score.segment"})
            return
        scorer = open_scorer(self.run.bundle, self.score, eligibility, None, 0, lists, segments)
        if isinstance(scorer, SegmentScorer):
            scorer = scorer.of_segment(number)
        placement = place_item(scorer, histories, item)
        if placement.caps and attributes is not None:
            column = list(self.score.max_per)[placement.caps[0] - 1]
            tables = [attributes.table] if new is None else [attributes.table, new.others]
            table = pa.concat_tables(tables, promote_options="permissive")
            value = table[column][item - 1].as_py()
            yield capped_reason(placement, column, value, self.score.max_per[column])
        elif own.is_new[item]:
            yield new_reason(placement)
        else:
            yield placed_reason(placement, self.score.of_segment(number))

    def changed(self, manifest: Manifest) -> tuple[str, ...]:
        """The inputs of the run that are no longer as they were."""
        key = manifest.resume_key
        now = rule_file_hashes(self.score, self.settings.items.path, self.settings.users.path)
        changed = changed_files(key, now)
        if prepared_hash(self.prepared.folder) != key.inputs.get("prepared"):
            changed.append("the prepared histories")
        return tuple(changed)

    @property
    def _perhaps_new(self) -> str:
        return "; only score.new_items can list it" if self.score.new_items else ""

    def _days_before(self, days: int | None) -> datetime | None:
        return days_before(self.run.locations.run_date, days, self.settings.time_zone)

    def _history(self, source: PreparedHistories, items: pa.Table) -> UserHistories | None:
        with source.open(items, self.prepared.scratch) as opened:
            return _only(self.user, opened.histories)

    def _of_rules(
        self, left_out: LeftOutItems, item: int, retired_before: datetime | None
    ) -> Iterator[Reason]:
        texts = {
            ALLOW: f"score.allow: {self.score.allow} does not list it",
            DENY: f"score.deny: {self.score.deny} lists it",
            WHERE: f"score.where is not true for it: {self.score.where}",
        }
        if retired_before is not None:
            texts[RETIRED] = (
                f"retired: no event with it since {_time(retired_before)}"
                f" (score.retire_after_days = {self.score.retire_after_days})"
            )
        for rule in left_out.rules_of(item):
            if rule == UNTRAINED:
                knows = "knows the item, but " if item <= len(self.run.items) else ""
                text = f"model {self.run.bundle.model_version} {knows}was not trained on any event"
                text += f" with it{self._perhaps_new}"
                if left_out.new is not None and item in left_out.new.index:
                    text += ", and no item that it was trained on is similar to it"
                yield Reason("unknown", text, {})
            else:
                yield Reason("filtered", texts[rule], {"rule": rule})

    def _of_lists(self, lists: UserLists, histories: UserHistories, item: int) -> Iterator[Reason]:
        """What is listed for this user that keeps the item away."""
        user_id, candidates, exclude = histories.user_id, lists.candidates, lists.exclude
        if candidates is not None and item not in candidates.pairs(user_id)[1]:
            rule, text = "score.candidates", f"{self.score.candidates} does not list it"
            yield Reason("filtered", f"{rule}: {text} for this user", {"rule": rule})
        if exclude is not None and item in exclude.pairs(user_id)[1]:
            rule, text = "score.exclude", f"{self.score.exclude} lists it"
            yield Reason("filtered", f"{rule}: {text} for this user", {"rule": rule})

    def _seen(self) -> Reason:
        rule = self.score.seen_rule
        last = last_event_with(
            self.run.locations.warehouse,
            self.user,
            self.item,
            self.run_day.end,
            rule.event_types if rule else (),
        )
        setting = f"score.exclude_seen = {', '.join(rule.words) if rule else 'true'}"
        if last is None:  # its rows were withdrawn
            return Reason("seen", f"the user has seen it ({setting})", {})
        time, kind = last
        of_type = f", an event of type {kind}" if kind else ""
        text = f"the user has seen it, last on {_time(time)}{of_type} ({setting})"
        return Reason("seen", text, {"last": time, "event_type": kind})


def _manifest(run: ServedRun) -> Manifest:
    """The manifest of the run's scored parts.

    Raises:
        InputError: it is not on this machine, or is of a run with another model.
    """
    folder = open_folder(run.locations.parts)
    try:
        manifest = read_manifest(folder)
    except (ResumeError, OSError):
        manifest = None
    if manifest is None or manifest.resume_key.model_version != run.bundle.model_version:
        day = run.locations.run_date
        raise InputError(
            "the settings that the lists of this run date were made by are not on this machine",
            folder.where,
            found=f"those of model {manifest.resume_key.model_version}" if manifest else "none",
            remedy=f"Run `fearec score --date {day}` here first, or give another --date.",
        )
    return manifest


def _recorded(manifest: Manifest, settings: Settings) -> ScoreSettings:
    """The settings of a run, but for those of this machine."""
    recorded = manifest.resume_key.settings
    values = {name: recorded[name] for name in ScoreSettings.model_fields if name in recorded}
    here = {name: getattr(settings.score, name) for name in ("provider", "batch_size", "threads")}
    return ScoreSettings(**{**values, **here, "accept_unknown_deny": True})


def _only(user: Id, histories: Iterator[UserHistories]) -> UserHistories | None:
    """The history of one user; None where there is none."""
    for part in histories:
        place = pc.index(part.user_id, pa.scalar(user, part.user_id.type)).as_py()
        if place >= 0:
            return part.slice(place, place + 1)
    return None


def _time(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S %Z}"
