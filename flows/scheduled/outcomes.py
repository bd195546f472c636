"""How a flow run ends: its state, its name and its tags."""

from collections.abc import Callable
from datetime import date
from typing import Any, TypeVar

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed

from flows.scheduled.run_logs import routed_logs
from pipeline.errors import BusyError, FearecError

Result = TypeVar("Result")

# States of our own; each also names the event that automations match (`prefect.flow-run.Held`).
HELD = "Held"  # of type Completed
SKIPPED = "Skipped"  # of type Cancelled


def ended(run: Callable[[], Result]) -> Result:
    """Do a flow's work; an error becomes a state with the error's one line as its message.

    Returns:
        What `run` returned; or the state Skipped where another run is at work on the same, which
        is no failure, or Failed. Prefect raises the error of such a state.
    """
    with routed_logs():
        try:
            return run()
        except BusyError as error:
            return Cancelled(name=SKIPPED, message=str(error), data=error)  # type: ignore[return-value]
        except FearecError as error:
            # Raised by us it would be logged with its traceback.
            return Failed(message=str(error), data=error)  # type: ignore[return-value]


def held(result: Result, reasons: tuple[str, ...]) -> State[Result]:
    """The state of a run that published the champion's recommendations."""
    return Completed(name=HELD, message="; ".join(reasons), data=result)


def name_flow_run(what: str, day: date, outcome: str = "") -> None:
    """Name the flow run at work for its run date, and for its outcome, which is a tag too."""
    changes: dict[str, Any] = {"name": f"{what} {day}" + (f": {outcome}" if outcome else "")}
    if outcome:
        changes["tags"] = {*flow_run.tags, outcome}
    with get_client(sync_client=True) as client:
        client.update_flow_run(flow_run.id, **changes)
