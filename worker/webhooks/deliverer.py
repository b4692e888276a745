"""Delivers events: takes what is due, a thread for each request, and records what came of it.

Any number of processes do it. A delivery is one claim at a time; a process that dies between a request and its record leaves
a claim that ends by itself, and the request is made again, with the same id and the same body.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from importlib.util import find_spec

from orchestrator.clock import Clock, system_clock
from orchestrator.contracts.run import AgentRunState, RunState
from orchestrator.contracts.webhook import WebhookTry
from orchestrator.errors import NightfleetError, ServiceUnavailable
from orchestrator.failpoints import FailpointError, failpoint
from orchestrator.planning.inputs import Upstream, run_output
from orchestrator.store.runs import parse
from orchestrator.store.store import Store
from orchestrator.store.webhooks import Parcel
from orchestrator.webhooks.document import Event, Facts, document, error_content
from orchestrator.webhooks.schedule import DELAYS, delay_seconds, in_flight, pause_seconds
from orchestrator.webhooks.signing import SecretInvalid, key_of, signed_headers
from worker.webhooks.posting import NotSent, Post, Reply, post

log = logging.getLogger("nightfleet.webhooks")

#: Requests of one process at a time. They wait most of the time, and a thread that waits costs little.
MOST_AT_ONCE = 64
#: ... and of them for one endpoint: whatever it allows, one that hangs leaves room for others.
MOST_EACH = 16
#: What a claim lasts beyond the time of its request: for the record, also by a database that hesitates.
MARGIN_SECONDS = 30.0
_PAUSE_SECONDS = 1.0
#: How long a process that ends waits for what is under way.
_LAST_SECONDS = 5.0
_GONE = 410
#: Claims without a record count too: what takes its workers along has to come to an end.
_MOST_CLAIMS = len(DELAYS) + 9
_AGENT = "nightfleet"


class Deliverer:
    """One process's share of the deliveries; thread-safe. `counts` adds up what came of requests."""

    def __init__(
        self,
        store: Store,
        environment: Mapping[str, str] = os.environ,
        *,
        send: Callable[[Post], Reply] = post,
        clock: Clock = system_clock,
        worker: str | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter(delivered=0, failed=0, dead=0, lost=0)
        self._store = store
        self._webhooks = store.webhooks
        self._environment = environment
        self._send = send
        self._clock = clock
        self._worker = worker
        self._lock = threading.Lock()
        self._busy: Counter[str] = Counter()
        #: Told of each request that ends, and how many have: there is room, and maybe more to do.
        self._ended = threading.Condition(self._lock)
        self._ends = 0

    # Running ----------------------------------------------------------------------------------------------------------

    def run(self, stopping: threading.Event) -> None:
        """Deliver what is due until `stopping` is set; what goes wrong is logged, and tried again a moment later."""
        if not self.can_send():
            return
        while not stopping.is_set():
            begun, seen = 0, self._ends
            try:
                begun = self.tick()
            except ServiceUnavailable as error:
                log.warning("no webhooks: %s", error.message)
            except Exception:
                log.exception("webhooks failed")
            # While there is something to do, the end of one request is the time for the next.
            self._wait_for_end(seen) if begun else stopping.wait(_PAUSE_SECONDS)

    def can_send(self) -> bool:
        """Tell whether this installation has what requests are made with; says so once, where somebody is to be told."""
        if find_spec("httpx2") is not None:
            return True
        try:
            endpoints = self._webhooks.endpoints()
        except ServiceUnavailable:
            endpoints = []
        if endpoints:
            log.warning("no webhooks are sent from here, which takes httpx2: pip install 'nightfleet[worker]'")
        return False

    def tick(self) -> int:
        """Claim what is due, as much as there is room for, and begin to send it; gives how much. Raises `DatabaseUnavailable`."""
        with self._lock:
            free, busy = MOST_AT_ONCE - self._busy.total(), dict(self._busy)
        if free <= 0:
            return 0
        parcels = self._webhooks.take(busy, free, MOST_EACH, margin_seconds=MARGIN_SECONDS, in_flight=in_flight)
        for parcel in parcels:
            with self._lock:
                self._busy[parcel.turn.id] += 1
            threading.Thread(target=self._deliver, args=(parcel,), name="nightfleet-webhook", daemon=True).start()
        return len(parcels)

    def finish(self) -> None:
        """Send what is due now, and wait for it a little: for a process behind which nobody comes soon."""
        give_up_at = self._clock.monotonic() + _LAST_SECONDS
        try:
            while find_spec("httpx2") is not None and self.tick():
                if not self.drain(give_up_at - self._clock.monotonic()):
                    return
        except ServiceUnavailable as error:
            log.warning("no webhooks: %s", error.message)
        self.drain(give_up_at - self._clock.monotonic())

    def drain(self, timeout_seconds: float = _LAST_SECONDS) -> bool:
        """Wait until nothing is under way; False when something still is, and will be sent again by somebody else."""
        give_up_at = self._clock.monotonic() + timeout_seconds
        with self._ended:
            while self._busy.total():
                left = give_up_at - self._clock.monotonic()
                if left <= 0 or not self._ended.wait(left):
                    return not self._busy.total()
        return True

    def _wait_for_end(self, seen: int) -> None:
        """Wait until more requests have ended than were `seen`, for a moment."""
        with self._ended:
            self._ended.wait_for(lambda: self._ends != seen, _PAUSE_SECONDS)

    # One delivery -----------------------------------------------------------------------------------------------------

    def _deliver(self, parcel: Parcel) -> None:
        try:
            self._attempt(parcel)
        except ServiceUnavailable as error:
            # The claim ends by itself, and the request is made again.
            log.warning("what came of webhook %s cannot be recorded: %s", parcel.id, error.message)
        except FailpointError:
            log.exception("webhook %s failed", parcel.id)
        finally:
            with self._ended:
                self._ends += 1
                self._busy[parcel.turn.id] -= 1
                if not self._busy[parcel.turn.id]:
                    del self._busy[parcel.turn.id]
                self._ended.notify_all()

    def _attempt(self, parcel: Parcel) -> None:
        if parcel.attempts > _MOST_CLAIMS:
            self._record(parcel, self._tried(parcel, None, 0.0, "workers that were at it have not come back"), None)
            return
        try:
            self._send_it(parcel)
        except (FailpointError, ServiceUnavailable):
            raise
        except Exception as error:
            log.exception("webhook %s failed", parcel.id)
            # It is not the endpoint's fault, but has to come to an end as well.
            what = f"{type(error).__name__} in the worker, whose log says more"
            self._record(parcel, self._tried(parcel, None, 0.0, what), None)

    def _send_it(self, parcel: Parcel) -> None:
        claimed_at = self._clock.monotonic()
        body = parcel.body
        if body is None:
            body = self._document(parcel)
            if not self._webhooks.keep_body(parcel, body):
                self._note("lost", parcel)
                return
        failpoint("before_webhook", parcel.id)
        began = self._clock.monotonic()
        reply: Reply | None = None
        error: str | None = None
        try:
            reply = self._send(self._post(parcel, body.encode(), since_claim=began - claimed_at))
        except (NotSent, SecretInvalid) as failed:
            error = str(failed)
        failpoint("after_webhook", parcel.id)
        took = self._clock.monotonic() - began
        if reply is not None and not 200 <= reply.status < 300:
            error = f"HTTP {reply.status}" + (f": {reply.shown}" if reply.shown else "")
        self._record(parcel, self._tried(parcel, reply, took, error), reply)

    def _tried(self, parcel: Parcel, reply: Reply | None, took: float, error: str | None) -> WebhookTry:
        return WebhookTry(
            at=parcel.now,
            status=None if reply is None else reply.status,
            milliseconds=round(took * 1000),
            error=error,
            worker=self._worker,
        )

    def _post(self, parcel: Parcel, body: bytes, *, since_claim: float) -> Post:
        # By the database's clock: the receiver refuses what comes from a host whose clock is wrong.
        timestamp = int(parcel.now.timestamp() + since_claim)
        headers = {
            "content-type": "application/json; charset=utf-8",
            "user-agent": _AGENT,
            **signed_headers(self._keys(parcel), parcel.id, timestamp, body),
        }
        turn = parcel.turn
        return Post(turn.url, headers, body, turn.timeout_seconds, turn.private)

    def _keys(self, parcel: Parcel) -> list[bytes]:
        """Give the keys of an endpoint; raises `SecretInvalid` where one of them is not to be had: nothing goes unsigned."""
        keys: list[bytes] = []
        for name in parcel.turn.secrets:
            text = self._environment.get(name, "").strip()
            if not text:
                raise SecretInvalid(f"the environment variable {name}, with its secret, is not set on this worker")
            try:
                keys.append(key_of(text))
            except SecretInvalid as error:
                raise SecretInvalid(f"the secret in the environment variable {name}: {error}") from None
        return keys

    def _record(self, parcel: Parcel, tried: WebhookTry, reply: Reply | None) -> None:
        if tried.error is None:
            kept = self._webhooks.delivered(parcel, tried)
            self._note("delivered" if kept else "lost", parcel)
            return
        status, asked = tried.status, None if reply is None else reply.retry_after
        gone = "it has answered 410: it wants nothing any more" if status == _GONE else None
        delay = None if gone else delay_seconds(parcel.attempts, asked)
        kept = self._webhooks.failed(parcel, tried, delay=delay, pause=pause_seconds(status, asked), gone=gone)
        self._note(("dead" if delay is None else "failed") if kept else "lost", parcel, tried.error, delay)

    def _note(self, what: str, parcel: Parcel, error: str | None = None, delay: float | None = None) -> None:
        with self._lock:
            self.counts[what] += 1
        about = {"endpoint": parcel.turn.name, "delivery": parcel.id, "type": parcel.type, "attempt": parcel.attempts}
        if parcel.run_id is not None:
            about["run_id"] = parcel.run_id
        match what:
            case "dead":
                log.error("webhook given up: %s", error, extra=about)
            case "failed":
                log.warning("webhook failed, again in %.0f s: %s", delay or 0.0, error, extra=about)
            case _:
                log.info("webhook %s", what, extra=about)

    # What is sent -----------------------------------------------------------------------------------------------------

    def _document(self, parcel: Parcel) -> str:
        names = self._webhooks.names(parcel)
        facts = Facts(
            project=names.project,
            workflow=names.workflow,
            cost_nanousd=names.cost_nanousd,
            task=names.task,
            agent=names.agent,
            content=self._content(parcel) if parcel.turn.content else {},
        )
        event = Event(
            id=parcel.id,
            number=parcel.number,
            type=parcel.type,
            project_id=parcel.project_id,
            run_id=parcel.run_id,
            subject=parcel.subject,
            at=parcel.created_at,
        )
        return document(event, facts)

    def _content(self, parcel: Parcel) -> dict[str, object]:
        """Give what agents said, for an endpoint that has asked for it; nothing of a run that is gone, or open again."""
        if parcel.type == "question.asked":
            asked = self._store.waits.question(str(parcel.subject.get("question_id")))
            return {} if asked is None else {"about": asked.about, "answer_schema": asked.answer_schema}
        if parcel.run_id is None:
            return {}
        if parcel.subject.get("state") != RunState.SUCCEEDED:
            return error_content(parcel.subject.get("error"))
        try:
            head = self._store.runs.head(parcel.run_id)
            if head.state != RunState.SUCCEEDED:
                return {}
            plan = self._store.runs.plan(head.workflow_id)
            rows = self._store.runs.parts(parcel.run_id)
        except ServiceUnavailable:
            raise
        except NightfleetError:
            return {}
        outputs = {row[1]: Upstream(AgentRunState(row[3]), parse(row[9])) for row in rows}
        return {"output": run_output(plan.workflow, outputs)}
