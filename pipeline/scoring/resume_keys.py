"""The key of a scoring run: runs of equal keys give equal rows, so that one can resume another."""

from collections.abc import Mapping
from typing import Any

from pipeline.bundles.bundle import Bundle
from pipeline.config.score_section import ScoreSettings
from pipeline.config.sections import LogSettings
from pipeline.dates import RunDay
from pipeline.rules.user_segments import segment_file_hashes
from pipeline.scoring.eligibility import item_file_hashes
from pipeline.scoring.manifest import ResumeKey


def log_names(logs: LogSettings) -> dict[str, Any]:
    """The part of these settings in a resume key; version 0.1 knew no zone but UTC."""
    unsaid = {name for name in ("event_type", "value", "keep") if getattr(logs, name) is None}
    unsaid |= {"time_zone"} if logs.time_zone == "UTC" else set()
    return logs.model_dump(mode="json", exclude=unsaid)


def rule_file_hashes(
    settings: ScoreSettings, items_table: str | None, users_table: str | None
) -> dict[str, str]:
    """The hashes of the content of all files and tables that the rules of `settings` need, by path.

    Raises:
        InputError: one is missing or cannot be read.
    """
    items = item_file_hashes(settings, items_table)
    return items | segment_file_hashes(settings, users_table)


def changed_files(key: ResumeKey, hashes: Mapping[str, str]) -> list[str]:
    """The paths whose content is other than that which a run was given."""
    return [path for path, content in hashes.items() if content not in key.inputs.values()]


def resume_key(
    bundle: Bundle,
    settings: ScoreSettings,
    run_day: RunDay,
    inputs: Mapping[str, str],
    more_settings: Mapping[str, Any],
) -> ResumeKey:
    """What the rows of a run depend on.

    Args:
        bundle: The model.
        settings: What to recommend.
        run_day: The run date.
        inputs: Identifies the content of all inputs: a hash or stamp by name.
        more_settings: Further settings, by name, as JSON values.
    """
    has_ages = settings.needs_ages or settings.seen_rule
    ends = {"run_end": run_day.end.isoformat()} if has_ages else {}
    return ResumeKey(
        model_version=bundle.model_version,
        bundle=dict(bundle.description.files),
        inputs=dict(inputs),
        settings={
            **settings.result_settings(),
            **more_settings,
            **ends,
            "run_date": run_day.run_date.isoformat(),
        },
    )
