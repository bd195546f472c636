"""The message to a webhook: what it says, and how often it is sent where the webhook fails."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from uuid import uuid4

import pytest

pytestmark = pytest.mark.usefixtures("prefect")

SENT_AGAIN = 3
PATIENCE = 0.5  # seconds, in place of ten


@contextmanager
def webhook(*answers: int | float) -> Iterator[tuple[str, list[str]]]:
    """A webhook's URL and the texts that it gets.

    Args:
        answers: To one request after the other, the last one to all that follow: a status, or a
            number of seconds with a fraction after which it is 200.
    """
    texts: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = answers[min(len(texts), len(answers) - 1)]
            texts.append(json.loads(body)["text"])
            if isinstance(answer, float):
                time.sleep(answer)
            self.send_response(200 if isinstance(answer, float) else answer)
            self.end_headers()

        def log_message(self, *given: Any) -> None:
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook", texts
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def failed(prefect: None) -> Any:
    """The event of a flow run that failed."""
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.server.events.schemas.events import ReceivedEvent

    from flows.scheduled.automations import TAG

    def fail() -> None:
        raise ValueError("no such file")

    state = flow(name="night", flow_run_name="night 2026-07-01")(fail)(return_state=True)
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(state.state_details.flow_run_id)

    def related(kind: str, name: object, role: str) -> dict[str, str]:
        return {"prefect.resource.id": f"prefect.{kind}.{name}", "prefect.resource.role": role}

    return lambda: ReceivedEvent(
        id=uuid4(),
        occurred=datetime.now(UTC),
        event="prefect.flow-run.Failed",
        resource={"prefect.resource.id": f"prefect.flow-run.{run.id}"},
        related=[related("tag", TAG, "tag"), related("flow", run.flow_id, "flow")],
    )


def report(event: Any) -> None:
    """Let the server evaluate an event, and do the actions that follow until none is left."""
    from prefect.server.events import actions, triggers
    from prefect.server.utilities.messaging.memory import Consumer, Topic

    async def done() -> None:
        subscription, at_work = Topic.by_name("actions").subscribe(), asyncio.Lock()
        try:
            await triggers.reconcile_automations(force=True)
            await triggers.reactive_evaluation(event)
            async with actions.consumer() as act:

                async def acted(message: Any) -> None:
                    async with at_work:
                        await act(message)

                consumer = Consumer("actions", subscription, concurrency=1)
                running = asyncio.create_task(consumer.run(acted))
                queues = subscription._queue, subscription._retry
                while at_work.locked() or not all(queue.empty() for queue in queues):
                    await asyncio.sleep(0.02)
                running.cancel()
        finally:
            Topic.by_name("actions").unsubscribe(subscription)

    asyncio.run(done())


def test_a_webhook_that_answers_gets_the_message_once(failed: Callable[[], Any]) -> None:
    from flows.scheduled.automations import make_automations

    with webhook(200) as (url, texts):
        make_automations(url)
        report(failed())
    (text,) = texts
    subject, message, link = text.splitlines()
    assert subject == "night: night 2026-07-01, Failed"
    assert message.endswith("no such file")
    assert "/runs/flow-run/" in link


@pytest.mark.parametrize(("answers", "n_sent"), [([500, 200], 2), ([500], 1 + SENT_AGAIN)])
def test_a_webhook_that_answers_with_an_error_is_sent_the_message_again(
    answers: Sequence[int], n_sent: int, failed: Callable[[], Any]
) -> None:
    from flows.scheduled.automations import make_automations

    with webhook(*answers) as (url, texts):
        make_automations(url)
        report(failed())
    assert len(texts) == n_sent
    assert len({*texts}) == 1


def test_a_webhook_that_answers_too_late_is_sent_the_message_again(
    failed: Callable[[], Any],
) -> None:
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    from flows.scheduled.automations import make_automations

    with webhook(3 * PATIENCE, 200) as (url, texts):
        make_automations(url)
        block: Any = CustomWebhookNotificationBlock.load("fearec", _sync=True)
        assert block.timeout == 10
        block.timeout = PATIENCE
        block.save("fearec", overwrite=True, _sync=True)
        report(failed())
    assert len(texts) == 2
