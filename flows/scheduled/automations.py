"""Prefect's automations for our flow runs, as code: lost ones are found, others are reported.

They match flow runs by the tag that every deployment has, and are kept by their names, so making
them again changes what is there.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, cast

import prefect.main  # noqa: F401, completes the classes of blocks
from prefect.automations import (
    Automation,
    ChangeFlowRunState,
    EventTrigger,
    Posture,
    ResourceSpecification,
    SendNotification,
)
from prefect.blocks.core import Block
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.settings import get_current_settings

from flows.scheduled.outcomes import HELD, SKIPPED
from pipeline.errors import ConfigError

TAG = "fearec"  # of every deployment in prefect.yaml
LOST, REPORT_HELD, REPORT_FAILURE = "fearec: lost runs", "fearec: held", "fearec: failure"

_HEARTBEATS = 3  # missed ones after which a flow run counts as lost
# Of the notifications' triggers. When one automation fails on an event, as it does when SQLite is
# locked, Prefect evaluates the event again for all of them. A trigger with a period has then spent
# the event; one without would fire again. No flow run is run again and ends within this period.
_PERIOD = timedelta(seconds=10)
_EVENT = "prefect.flow-run."
_FAILURES = ["Failed", "Crashed", "TimedOut"]
_ENDS = {"Completed", "Cancelled", *_FAILURES, HELD, SKIPPED}
_WEBHOOK = "fearec"  # name of the block that is made for a URL
_RUN = "{{ flow.name }}: {{ flow_run.name }}"
_BODY = "{{ flow_run.state.message }}\n{{ flow_run|ui_url }}"


def make_automations(notify: str | None) -> list[Automation]:
    """Create the automations on the server, or bring them up to date.

    An automation that was disabled stays so.

    Args:
        notify: Where notifications go: the URL of a webhook that takes ``{"text": ...}``, as
            Slack's and Mattermost's, or a block as TYPE/NAME. Without it lost runs are found, but
            nothing is sent.

    Returns:
        What there is now.

    Raises:
        ConfigError: heartbeats are off, or the block does not exist.
    """
    wanted = [_lost_runs(), *(_notifications(_block(notify)) if notify else [])]
    return [_kept(automation) for automation in wanted]


def _lost_runs() -> Automation:
    """Marks a flow run as Crashed when its heartbeat is missing, as after a machine's death."""
    seconds = get_current_settings().flows.heartbeat_frequency
    if seconds is None:
        raise ConfigError(
            "heartbeats are off, by which lost runs are found", "PREFECT_FLOWS_HEARTBEAT_FREQUENCY"
        )
    heartbeat = f"{_EVENT}heartbeat"
    return Automation(
        name=LOST,
        description="A flow run without heartbeats has lost its machine: it becomes Crashed.",
        trigger=_trigger(
            after={heartbeat},
            expect={heartbeat, *(_EVENT + state for state in _ENDS)},
            posture=Posture.Proactive,
            within=timedelta(seconds=_HEARTBEATS * seconds),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=f"No heartbeat for {_HEARTBEATS * seconds} seconds: the process or its"
                " machine died. Run it again; what is done stays done.",
            )
        ],
    )


def _notifications(block_id: Any) -> Sequence[Automation]:
    def automation(name: str, states: Sequence[str], subject: str) -> Automation:
        send = SendNotification(block_document_id=block_id, subject=subject, body=_BODY)
        return Automation(
            name=name,
            description=f"Notify when a flow run is {' or '.join(states)}.",
            trigger=_trigger(expect={_EVENT + state for state in states}, within=_PERIOD),
            actions=[send],
        )

    return [
        automation(REPORT_HELD, [HELD], f"{_RUN}, the champion serves"),
        automation(REPORT_FAILURE, _FAILURES, f"{_RUN}, {{{{ flow_run.state.name }}}}"),
    ]


def _trigger(**given: Any) -> EventTrigger:
    tag = {"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"}
    return EventTrigger(
        match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
        match_related=ResourceSpecification(tag),
        for_each={"prefect.resource.id"},
        threshold=1,
        **given,
    )


def _block(notify: str) -> Any:
    """The id of the notification block to use; that of a URL is made."""
    if "://" in notify:
        block = CustomWebhookNotificationBlock(
            name=_WEBHOOK, url=notify, json_data={"text": "{{subject}}\n{{body}}"}
        )
        return block.save(_WEBHOOK, overwrite=True)
    try:
        return cast(Block, Block.load(notify))._block_document_id
    except ValueError:
        raise ConfigError(
            "no such block",
            f"--notify {notify}",
            expected="the URL of a webhook, or TYPE/NAME as in `prefect block ls`",
        ) from None


def _kept(automation: Automation) -> Automation:
    with get_client(sync_client=True) as client:
        same = client.read_automations_by_name(automation.name)
    if same:
        automation.id, automation.enabled = same[0].id, same[0].enabled
        automation.update()
    else:
        automation.create()
    return automation
