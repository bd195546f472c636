"""The gate: whether a run's own model serves, or the champion."""

from pipeline.bundles.gate_limits import findings
from pipeline.bundles.registry import FORCED, HELD, RegisteredModel, local_bundle
from pipeline.config.guard_sections import GateSettings
from pipeline.errors import GateError
from pipeline.results import Checked, Evaluated, Exported, Gated
from pipeline.storage.locations import RunLocations


def gate(
    checked: Checked,
    evaluated: Evaluated | None,
    exported: Exported | None,
    unfit: str | None,
    settings: GateSettings,
    champion: RegisteredModel | None,
    pinned: RegisteredModel | None,
    locations: RunLocations,
    *,
    force_publish: bool = False,
) -> Gated:
    """Decide which model serves a run date.

    The run's own model, the challenger, serves unless something holds the run: the checks of the
    data, a training or an export that failed, or a limit (see `pipeline.bundles.gate_limits`). A
    person overrules both: ``force_publish`` publishes the challenger, and a model that was chosen
    for the run date serves again whenever the run is repeated.

    Args:
        checked: The checks of the run's data.
        evaluated: The metrics of the run's own model, the challenger; None where it has none.
        exported: Its bundle; None where it has none.
        unfit: Why it has none, where its training or its export failed.
        settings: The limits.
        champion: The model that served the run date before; None of a first run.
        pinned: The model that a person chose for this run date.
        locations: Where bundles are.
        force_publish: Whether the challenger serves in any case.

    Raises:
        GateError: the run is held, and there is no champion to serve.
    """
    found = findings(evaluated, settings) if evaluated else []
    against = (each.message for each in found if each.holds)
    reasons = (*checked.objections, *([unfit] if unfit else []), *against)
    notes = tuple(each.message for each in found if not each.holds)
    candidate = exported.model_version if exported else None
    before = champion.model_version if champion else None
    if pinned is not None:
        decision, version = pinned.decision, pinned.model_version
        bundle = local_bundle(locations, pinned)
    elif exported is not None and (force_publish or not reasons):
        decision = FORCED if reasons else "promoted" if champion else "first"
        version, bundle = exported.model_version, exported.bundle
    elif champion is not None:
        decision, version = HELD, champion.model_version
        bundle = local_bundle(locations, champion)
    else:
        raise GateError(
            "the run is held, and there is no champion that could serve instead",
            f"run date {locations.run_date}",
            found="; ".join(reasons),
            remedy="Mend the cause and run it again."
            if unfit
            else "Mend the cause, or publish in any case by --force-publish.",
        )
    return Gated(decision, reasons, version, bundle, candidate, before, notes=notes)
