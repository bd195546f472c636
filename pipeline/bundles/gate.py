"""The gate: whether a run's own model serves, or the champion."""

from pipeline.bundles.registry import RegisteredModel, local_bundle
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
    reasons = (*checked.objections, *([unfit] if unfit else []))
    candidate = exported.model_version if exported else None
    before = champion.model_version if champion else None
    if pinned is not None:
        bundle = local_bundle(locations, pinned)
        return Gated(pinned.decision, reasons, pinned.model_version, bundle, candidate, before)
    if exported is not None and (force_publish or not reasons):
        decision = "forced" if reasons else "promoted" if champion else "first"
        version = exported.model_version
        return Gated(decision, reasons, version, exported.bundle, candidate, before)
    if champion is None:
        raise GateError(
            "the run is held, and there is no champion that could serve instead",
            f"run date {locations.run_date}",
            found="; ".join(reasons),
            remedy="Mend the cause, or publish in any case by --force-publish.",
        )
    bundle = local_bundle(locations, champion)
    return Gated("held", reasons, champion.model_version, bundle, candidate, before)
