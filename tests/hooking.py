"""Webhooks for tests: endpoints, their keys, and what has arrived, checked as a receiver would."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import select, update
from steps import ago
from web_server import Handler, Received

from orchestrator.contracts.webhook import WebhookEndpoint
from orchestrator.store.database import Database
from orchestrator.store.store import Store
from orchestrator.store.tables import webhook_delivery, webhook_endpoint
from orchestrator.webhooks.signing import key_of, secret_of, verify_standard

SECRET = secret_of(b"k" * 32)
NEW_SECRET = secret_of(b"n" * 32)
VARIABLE = "TEST_HOOK_SECRET"
ENVIRONMENT = {VARIABLE: SECRET, "TEST_NEW_HOOK_SECRET": NEW_SECRET}


def endpoint(name: str = "orders", **given: Any) -> WebhookEndpoint:
    """Make an endpoint of an intranet that wants all events."""
    usual: dict[str, Any] = {
        "url": "http://127.0.0.1:9/",
        "events": ("*",),
        "secrets": (VARIABLE,),
        "private": True,
    }
    return WebhookEndpoint(name=name, **{**usual, **given})


def put(store: Store, name: str = "orders", **given: Any) -> str:
    """Store an endpoint, and give its id."""
    made = endpoint(name, **given)
    project_id = None
    if made.project is not None:
        store.runs.make_project(made.project)
        project_id = store.runs.find_project(made.project)
    store.webhooks.put(made, project_id)
    found = store.webhooks.id_of(name)
    assert found is not None
    return found


def told(store: Store, name: str | None = None) -> list[tuple[str, str | None]]:
    """Give the events that have been decided, oldest first, with their runs."""
    return [(each.type, each.run_id) for each in reversed(store.webhooks.deliveries(endpoint=name, limit=10_000))]


def hasten(database: Database) -> None:
    """Let the time pass until everything is due again, and no endpoint wants to be left alone."""
    with database.connect() as connection:
        # Endpoints first, as everybody holds them.
        connection.execute(update(webhook_endpoint).values(paused_until=None))
        waiting = update(webhook_delivery).where(webhook_delivery.c.state == "open")
        connection.execute(waiting.where(~webhook_delivery.c.sending).values(due_at=ago(database, 1)))


def lapse(database: Database) -> None:
    """Let the claims of everybody end."""
    with database.connect() as connection:
        sending = update(webhook_delivery).where(webhook_delivery.c.sending)
        connection.execute(sending.values(due_at=ago(database, 1)))


def rows(database: Database) -> list[dict[str, Any]]:
    """Give all deliveries as they are stored."""
    with database.connect() as connection:
        found = connection.execute(select(webhook_delivery).order_by(webhook_delivery.c.number)).mappings()
        return [dict(row) for row in found]


def opened(received: Received, secret: str = SECRET) -> dict[str, Any]:
    """Check the signature of what has arrived, and give what it says."""
    headers = {name.lower(): value for name, value in received.headers.items()}
    signed = verify_standard(headers, received.body, [key_of(secret)])
    body = json.loads(received.body)
    assert signed.message_id == body["id"]
    return body


def gives(status: int, **headers: str) -> Any:
    """Make an answer for a web server of a test's own."""

    def answer(handler: Handler) -> None:
        handler.give(status, b"", {name.replace("_", "-"): value for name, value in headers.items()})

    return answer
