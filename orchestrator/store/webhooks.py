"""Webhooks in the database: who is told of what, and each event on its way to each of them.

Events are written by triggers (migration 0012), in the transaction in which they happen. A claim raises `epoch`, which fences
all that is written of it: a deliverer whose time is over changes nothing any more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from orchestrator.clock import ids
from orchestrator.contracts.webhook import (
    DeliveryState,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookSummary,
    WebhookTry,
)
from orchestrator.store.database import Database, Session, times
from orchestrator.store.defaults import DEFAULT_TENANT_ID

_COUNTED = 10_000
#: Endpoints that one claim looks at.
_MOST_ENDPOINTS = 1000
_LAST = 2**62
#: Of one delivery; those before are forgotten.
MOST_TRIES = 16


@dataclass(frozen=True, slots=True)
class Turn:
    """An endpoint that has something due."""

    id: str
    name: str
    url: str
    secrets: tuple[str, ...]
    content: bool
    private: bool
    timeout_seconds: float
    concurrency: int
    failures: int


@dataclass(frozen=True, slots=True)
class Parcel:
    """A delivery that this process has claimed; `now` is the database's time of the claim."""

    turn: Turn
    number: int
    id: str
    type: str
    project_id: str | None
    run_id: str | None
    subject: Mapping[str, Any]
    body: str | None
    epoch: int
    attempts: int
    tries: tuple[Mapping[str, Any], ...]
    created_at: datetime
    now: datetime


@dataclass(frozen=True, slots=True)
class Names:
    """What is known of a run or a question beside the event."""

    project: str | None
    workflow: str | None
    cost_nanousd: int | None
    task: str | None
    agent: str | None


class Webhooks:
    """Every method is one transaction; any number of processes may call them at once. Times are the database's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Endpoints --------------------------------------------------------------------------------------------------------

    def put(self, endpoint: WebhookEndpoint, project_id: str | None) -> None:
        """Make an endpoint, or change the one of this name and switch it on."""
        options = {
            "content": endpoint.content,
            "private": endpoint.private,
            "timeout": endpoint.timeout.total_seconds(),
            "concurrency": endpoint.concurrency,
        }
        parameters = {
            "tenant_id": DEFAULT_TENANT_ID,
            "project_id": project_id,
            "name": endpoint.name,
            "url": endpoint.url,
            "events": json.dumps(endpoint.events),
            "secrets": json.dumps(endpoint.secrets),
            "options": json.dumps(options),
        }
        self._database.execute(lambda session: session.row("webhook_put", id=ids.new(), **parameters))

    def switch(self, name: str, *, active: bool, note: str | None = None) -> bool:
        """Switch an endpoint on or off; False where there is none of the name."""
        which = {"tenant_id": DEFAULT_TENANT_ID, "name": name, "active": active, "note": note}
        return self._database.execute(lambda session: session.row("webhook_switch", **which)) is not None

    def remove(self, name: str) -> int | None:
        """Remove an endpoint with all that it was to be told; gives how much that was, None where there is no such endpoint."""

        def work(session: Session) -> int | None:
            row = session.row("webhook_remove", tenant_id=DEFAULT_TENANT_ID, name=name)
            return None if row is None else session.run("webhook_remove_deliveries", endpoint_id=row[0])

        return self._database.transact(work)

    def endpoints(self) -> list[WebhookSummary]:
        """Give every endpoint by name."""
        return [_summary(row) for row in self._rows()]

    def id_of(self, name: str) -> str | None:
        """Give the id of an endpoint, None where there is none of the name."""
        return next((str(row[0]) for row in self._rows() if row[1] == name), None)

    def _rows(self) -> list[tuple[Any, ...]]:
        which = {"tenant_id": DEFAULT_TENANT_ID, "bound": _COUNTED}
        return self._database.execute(lambda session: session.rows("webhook_endpoints", **which))

    # Events that no trigger writes --------------------------------------------------------------------------------------

    def tell(self, event: str, subject: Mapping[str, Any], *, project: str, key: str) -> int:
        """Write an event for every endpoint that wants it, once for each `key`; gives for how many that was the first time."""

        def work(session: Session) -> int:
            listeners = session.rows("webhook_listeners", tenant_id=DEFAULT_TENANT_ID, project=project)
            return sum(
                _tell(session, endpoint_id, event, subject, id=ids.new(), project_id=project_id, key=key)
                for endpoint_id, events, project_id in listeners
                if event in json.loads(events)
            )

        return self._database.transact(work)

    def tell_one(self, endpoint_id: str, event: str, subject: Mapping[str, Any]) -> str:
        """Write an event for one endpoint, wanted or not; gives the delivery's id."""
        identity = ids.new()
        of = {"id": identity, "project_id": None, "key": None}
        self._database.execute(lambda session: _tell(session, endpoint_id, event, subject, **of))
        return identity

    # Delivering -------------------------------------------------------------------------------------------------------

    def take(
        self,
        busy: Mapping[str, int],
        most: int,
        most_each: int,
        *,
        margin_seconds: float,
        in_flight: Callable[[int, int], int],
    ) -> list[Parcel]:
        """Claim up to `most` deliveries that are due, for as long as their endpoints may take and `margin_seconds`.

        No endpoint gets more than `most_each` of this process, with those that it is `busy` with, nor more of all processes
        than `in_flight(concurrency, failures)`. Those that this one is least busy with come first: who is slow waits for itself.
        """

        def work(session: Session) -> list[Parcel]:
            turns = [
                _turn(row) for row in session.rows("webhook_turns", tenant_id=DEFAULT_TENANT_ID, most=_MOST_ENDPOINTS)
            ]
            found: list[Parcel] = []
            for turn in sorted(turns, key=lambda turn: busy.get(turn.id, 0)):
                if len(found) >= most:
                    break
                # After the endpoint is held: whoever has taken before has committed.
                row = session.row("webhook_in_flight", endpoint_id=turn.id)
                free = in_flight(turn.concurrency, turn.failures) - (row[0] if row else 0)
                taken = min(free, most - len(found), most_each - busy.get(turn.id, 0))
                if taken > 0:
                    lease = round(turn.timeout_seconds + margin_seconds, 3)
                    rows = session.rows("webhook_take", endpoint_id=turn.id, most=taken, lease=lease)
                    found += sorted((_parcel(turn, row) for row in rows), key=lambda parcel: parcel.number)
            return found

        # A look first: on SQLite a transaction keeps everybody else from writing.
        return self._database.transact(work) if self.has_due() else []

    def names(self, parcel: Parcel) -> Names:
        """Give what an event needs that is not in its own row."""

        def work(session: Session) -> Names:
            workflow_id = parcel.subject.get("workflow_id")
            named = session.row("webhook_names", project_id=parcel.project_id, workflow_id=workflow_id)
            asker = parcel.subject.get("agent_run_id")
            asked = None if asker is None else session.row("webhook_task", id=asker)
            cost = None if parcel.run_id is None else session.row("webhook_cost", run_id=parcel.run_id)
            spent = None if cost is None or cost[0] is None else int(cost[0])
            project, workflow = named or (None, None)
            task, agent = asked or (None, None)
            return Names(project, workflow, spent, task, agent)

        return self._database.execute(work)

    def keep_body(self, parcel: Parcel, body: str) -> bool:
        """Keep what is about to be sent, for every later request; False when the claim is lost."""
        return self._write("webhook_keep_body", parcel, body=body)

    def delivered(self, parcel: Parcel, tried: WebhookTry) -> bool:
        """Record that it has arrived, and that its endpoint is well."""

        def work(session: Session) -> bool:
            # The endpoint first, as who takes does.
            session.run("webhook_well", **_address(parcel))
            return _write(session, "webhook_delivered", parcel, tries=_tries(parcel, tried))

        return self._database.transact(work)

    def failed(
        self, parcel: Parcel, tried: WebhookTry, *, delay: float | None, pause: float, gone: str | None = None
    ) -> bool:
        """Record a request that failed: it is sent again `delay` seconds from now, or never again without one.

        The whole endpoint is left alone for `pause` seconds, and switched off if it has `gone`, for that reason: unless the
        claim is lost, or the endpoint has moved to another address meanwhile.
        """
        tries = _tries(parcel, tried)

        def work(session: Session) -> bool:
            # The endpoint first, as who takes does.
            session.row("webhook_hold", endpoint_id=parcel.turn.id)
            if delay is None:
                kept = _write(session, "webhook_dead", parcel, tries=tries)
            else:
                kept = _write(session, "webhook_later", parcel, tries=tries, delay=round(delay, 3))
            if kept:
                session.run("webhook_ill", pause=round(pause, 3), **_address(parcel))
            if kept and gone is not None:
                session.run("webhook_gone", note=gone, **_address(parcel))
            return kept

        return self._database.transact(work)

    def _write(self, statement: str, parcel: Parcel, **values: Any) -> bool:
        return self._database.execute(lambda session: _write(session, statement, parcel, **values))

    # Looking ----------------------------------------------------------------------------------------------------------

    def deliveries(
        self,
        *,
        endpoint: str | None = None,
        state: DeliveryState | None = None,
        run_id: str | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> list[WebhookDelivery]:
        """Give deliveries, the newest first, at most `limit`; those behind the sequence number `before` if that is given."""
        which = {
            "tenant_id": DEFAULT_TENANT_ID,
            "endpoint": endpoint,
            "state": None if state is None else state.value,
            "before": _LAST if before is None else before,
            "most": limit,
        }

        def work(session: Session) -> list[tuple[Any, ...]]:
            if run_id is None:
                return session.rows("webhook_deliveries", **which)
            return session.rows("webhook_deliveries_of", run_id=run_id, **which)

        return [_delivery(row) for row in self._database.execute(work)]

    def delivery(self, identity: str) -> WebhookDelivery | None:
        """Give one delivery; None where there is none of this id."""
        which = {"tenant_id": DEFAULT_TENANT_ID, "id": identity}
        row = self._database.execute(lambda session: session.row("webhook_delivery", **which))
        return None if row is None else _delivery(row)

    def redeliver(self, identity: str) -> bool:
        """Send one again, from the beginning; False for one that is being sent, or is not there."""
        return self._database.execute(lambda session: session.run("webhook_redeliver", id=identity)) == 1

    def redeliver_dead(self, endpoint_id: str, *, most: int) -> int:
        """Send up to `most` dead ones of an endpoint again; gives how many."""
        return self._database.execute(
            lambda session: session.run("webhook_redeliver_dead", endpoint_id=endpoint_id, most=most)
        )

    def has_due(self) -> bool:
        """Tell whether anything is to be sent now."""
        which = {"tenant_id": DEFAULT_TENANT_ID}
        return self._database.execute(lambda session: session.row("webhook_due", **which)) is not None


def _tell(session: Session, endpoint_id: str, event: str, subject: Mapping[str, Any], **of: str | None) -> int:
    text = json.dumps(subject, ensure_ascii=False)
    tenant = DEFAULT_TENANT_ID
    return session.run("webhook_tell", tenant_id=tenant, endpoint_id=endpoint_id, type=event, subject=text, **of)


def _write(session: Session, statement: str, parcel: Parcel, **values: Any) -> bool:
    return session.run(statement, number=parcel.number, epoch=parcel.epoch, **values) == 1


def _address(parcel: Parcel) -> dict[str, str]:
    """Give which endpoint was asked, and where: one that has moved since says nothing by that of its new address."""
    return {"endpoint_id": parcel.turn.id, "url": parcel.turn.url}


def _tries(parcel: Parcel, tried: WebhookTry) -> str:
    kept = [*parcel.tries, tried.model_dump(mode="json")][-MOST_TRIES:]
    return json.dumps(kept, ensure_ascii=False)


def _turn(row: Sequence[Any]) -> Turn:
    options = json.loads(row[4])
    return Turn(
        id=str(row[0]),
        name=row[1],
        url=row[2],
        secrets=tuple(json.loads(row[3])),
        content=bool(options["content"]),
        private=bool(options["private"]),
        timeout_seconds=float(options["timeout"]),
        concurrency=int(options["concurrency"]),
        failures=row[5],
    )


def _parcel(turn: Turn, row: Sequence[Any]) -> Parcel:
    return Parcel(
        turn=turn,
        number=row[0],
        id=str(row[1]),
        type=row[2],
        project_id=row[3],
        run_id=row[4],
        subject=json.loads(row[5]),
        body=row[6],
        epoch=row[7],
        attempts=row[8],
        tries=tuple(json.loads(row[9])) if row[9] else (),
        created_at=_moment(row[10]),
        now=_moment(row[11]),
    )


def _summary(row: Sequence[Any]) -> WebhookSummary:
    options = json.loads(row[6])
    return WebhookSummary(
        name=row[1],
        project=row[2],
        url=row[3],
        events=tuple(json.loads(row[4])),
        secrets=tuple(json.loads(row[5])),
        content=options["content"],
        private=options["private"],
        timeout_seconds=options["timeout"],
        concurrency=options["concurrency"],
        active=bool(row[7]),
        note=row[8],
        failures=row[9],
        paused_until=times(row[10]),
        created_at=_moment(row[11]),
        open=row[12],
        dead=row[13],
    )


def _delivery(row: Sequence[Any]) -> WebhookDelivery:
    state = DeliveryState(row[5])
    return WebhookDelivery(
        id=str(row[0]),
        sequence=row[1],
        endpoint=row[2],
        type=row[3],
        run_id=row[4],
        state=state,
        attempts=row[7],
        next_at=times(row[8]) if state is DeliveryState.OPEN else None,
        created_at=_moment(row[9]),
        finished_at=times(row[10]),
        tries=tuple(WebhookTry.model_validate(each) for each in json.loads(row[11] or "[]")),
        body=None if row[12] is None else json.loads(row[12]),
    )


def _moment(value: Any) -> datetime:
    found = times(value)
    if found is None:
        raise ValueError("a time that must be set is not")
    return found
