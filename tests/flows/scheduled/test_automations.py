"""The automations on a server: made once, kept by their names, refused where they cannot work."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from pipeline.errors import ConfigError

WEBHOOK = "http://127.0.0.1:9/hook"


pytestmark = pytest.mark.usefixtures("prefect")


def on_server() -> dict[str, Any]:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return {each.name: each for each in client.read_automations()}


def test_they_are_made_once_and_kept_up_to_date() -> None:
    from flows.scheduled.automations import LOST, REPORT_FAILURE, REPORT_HELD, make_automations

    make_automations(None)
    assert set(on_server()) == {LOST}
    make_automations(WEBHOOK)
    first = on_server()
    assert set(first) == {LOST, REPORT_HELD, REPORT_FAILURE}
    assert all(each.enabled for each in first.values())
    make_automations(WEBHOOK)
    assert {name: each.id for name, each in on_server().items()} == {
        name: each.id for name, each in first.items()
    }
    lost = first[LOST].trigger
    assert lost.within == timedelta(seconds=3 * 180)
    assert {"prefect.flow-run.heartbeat", "prefect.flow-run.Held"} <= lost.expect
    assert first[REPORT_HELD].trigger.expect == {"prefect.flow-run.Held"}
    tag = first[REPORT_HELD].trigger.match_related
    assert "prefect.tag.fearec" in str(tag)


def test_one_that_was_disabled_stays_so() -> None:
    from prefect.client.orchestration import get_client

    from flows.scheduled.automations import LOST, make_automations

    make_automations(None)
    with get_client(sync_client=True) as client:
        client.pause_automation(on_server()[LOST].id)
    (automation,) = make_automations(None)
    assert not automation.enabled
    assert not on_server()[LOST].enabled


def test_a_block_that_is_there_is_used_and_another_refused() -> None:
    from prefect.blocks.notifications import SlackWebhook

    from flows.scheduled.automations import REPORT_HELD, make_automations

    block = SlackWebhook(url="https://hooks.example.com/x").save("ops", _sync=True)
    make_automations("slack-webhook/ops")
    assert on_server()[REPORT_HELD].actions[0].block_document_id == block
    with pytest.raises(ConfigError, match="no such block"):
        make_automations("slack-webhook/nowhere")


@pytest.mark.parametrize(
    ("state", "name"), [("Held", "fearec: held"), ("Failed", "fearec: failure")]
)
def test_an_end_that_the_server_evaluates_again_is_reported_once(
    state: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.server.events import triggers
    from prefect.server.events.schemas.events import ReceivedEvent

    from flows.scheduled.automations import TAG, make_automations

    def ended(run: str, minutes: int) -> ReceivedEvent:
        return ReceivedEvent(
            id=uuid4(),
            occurred=datetime.now(UTC) + timedelta(minutes=minutes),
            event=f"prefect.flow-run.{state}",
            resource={"prefect.resource.id": f"prefect.flow-run.{run}"},
            related=[{"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"}],
        )

    fired: list[tuple[str, Any]] = []

    async def act(firing: Any) -> None:
        fired.append((firing.trigger.automation.name, firing.triggering_event.id))

    async def evaluated(*events: ReceivedEvent) -> None:
        await triggers.reconcile_automations(force=True)
        for event in events:
            await triggers.reactive_evaluation(event)

    make_automations(WEBHOOK)
    monkeypatch.setattr(triggers, "act", act)
    first, other = uuid4().hex, uuid4().hex
    end, end_of_other, end_again = ended(first, 0), ended(other, 0), ended(first, 1)
    # The server's consumer evaluates an event up to four times, while an automation fails on it.
    asyncio.run(evaluated(end, end, end_of_other, end, end_again, end_again))
    assert fired == [(name, event.id) for event in (end, end_of_other, end_again)]


@pytest.mark.parametrize("command", [["automations"], ["serve"]])
def test_without_a_server_nothing_is_made_and_forgotten(command: list[str]) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        done = CliRunner().invoke(app, command)
    assert done.exit_code == 2
    assert "PREFECT_API_URL: no Prefect server is configured" in done.stderr


def test_a_server_that_does_not_answer_is_one_line() -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        done = CliRunner().invoke(app, ["automations"])
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "http://127.0.0.1:9/api: the Prefect server does not answer" in done.stderr
