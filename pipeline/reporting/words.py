"""What a report says about decisions: in a sentence, and by the commands that come next."""

from collections.abc import Mapping
from typing import Any

from pipeline.schema import RUN_DATE

Command = tuple[str, str]  # what it is for, and the command line

_TONES = {"held": "warn", "forced": "warn", "rolled back": "warn", "failed": "bad"}
_SENTENCES = {
    "first": "The first model serves.",
    "promoted": "This run's model is the new champion and serves.",
    "held": "This run's model does not serve: the champion does.",
    "forced": "A person had this model published, whatever the checks and the gate said.",
    "rolled back": "A person went back to an earlier model, which serves.",
    "failed": "The run failed. The table of recommendations is as it was.",
}


def tone(decision: str) -> str:
    """How a decision is shown: ``good``, ``warn`` or ``bad``."""
    return _TONES.get(decision, "good")


def sentence(row: Mapping[str, Any]) -> str:
    """What a run's decision means, and where a failed run stopped."""
    said = _SENTENCES.get(row["decision"], "")
    done = [name for name, _ in row["stage_seconds"] or ()]
    if row["decision"] != "failed":
        if row["decision"] == "held" and not row["candidate"]:
            return "The run trained no model that could serve: the champion does."
        return said
    stopped = f"Its last finished stage is {done[-1]}." if done else "It finished no stage."
    return f"{said} {stopped}"


def remedies(row: Mapping[str, Any]) -> list[Command]:
    """What can be done about a run that is held or failed."""
    day, found = row[RUN_DATE], []
    if row["decision"] == "held":
        if row["candidate"] and row["champion"]:
            diff = f"fearec models diff {row['champion']} {row['candidate']}"
            found.append(("See how the models differ", diff))
        again = f"fearec nightly --date {day}"
        if row["candidate"] or any(check["outcome"] == "held" for check in row["checks"] or ()):
            found.append(("Publish its own model all the same", f"{again} --force-publish"))
        else:  # what its training or export failed of, no person overrules
            found.append(("Run it again, once the cause is mended", again))
    elif row["decision"] == "failed":
        found.append(("Go on where it stopped", f"fearec nightly --date {day}"))
    return found


def commands(row: Mapping[str, Any]) -> list[Command]:
    """What looks closer at a run, and what takes its decision back."""
    found = [("One user: history and recommendations", "fearec recommend USER")]
    if row["model_version"]:
        found.append(("The model that serves", f"fearec models show {row['model_version']}"))
    if row["champion"] and row["candidate"]:
        diff = f"fearec models diff {row['champion']} {row['candidate']}"
        found.append(("This run's model beside the champion before", diff))
    if row["decision"] in ("promoted", "forced"):
        rollback = "fearec models rollback --republish"
        found.append(("Back to the champion before, in the table too", rollback))
    return [
        *found,
        ("Last runs, champion and disk use", "fearec status"),
        ("This page anew", f"fearec report --date {row[RUN_DATE]}"),
    ]
