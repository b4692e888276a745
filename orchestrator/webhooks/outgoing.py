"""What people do about webhooks that go out: who is told of what, what came of it, and once more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from orchestrator.clock import random_bytes, system_clock
from orchestrator.contracts.webhook import (
    DeliveryState,
    EventType,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookRemoved,
    WebhookSummary,
)
from orchestrator.errors import UsageError
from orchestrator.planning.hints import did_you_mean
from orchestrator.webhooks.signing import secret_of

if TYPE_CHECKING:
    from orchestrator.contracts.batch import BatchResult
    from orchestrator.service import Service

_KEY_BYTES = 32
_AT_ONCE = 500


def made_endpoint(**given: Any) -> WebhookEndpoint:
    """Make an endpoint of what somebody has said; raises `UsageError` with all that is wrong with it."""
    try:
        return WebhookEndpoint(**given)
    except ValidationError as error:
        faults = error.errors(include_input=False, include_url=False)
        lines = [
            ": ".join(filter(None, (".".join(map(str, fault["loc"])), fault["msg"].removeprefix("Value error, "))))
            for fault in faults
        ]
        raise UsageError("webhook: " + "\n  ".join(lines)) from None


def set_endpoint(service: Service, endpoint: WebhookEndpoint) -> WebhookSummary:
    """Tell an endpoint of what happens from now on, or change the one of this name."""
    store = service.kernel.store
    project_id = None
    if endpoint.project is not None:
        store.runs.make_project(endpoint.project)
        project_id = store.runs.find_project(endpoint.project)
    store.webhooks.put(endpoint, project_id)
    return _of_name(service, endpoint.name)


def endpoints(service: Service) -> list[WebhookSummary]:
    """Give every endpoint, by name."""
    return service.kernel.store.webhooks.endpoints()


def switch_endpoint(service: Service, name: str, *, active: bool) -> WebhookSummary:
    """Switch an endpoint on, or off: what happens meanwhile it is never told. Raises `UsageError` where there is none."""
    _of_name(service, name)
    service.kernel.store.webhooks.switch(name, active=active, note=None if active else "switched off by hand")
    return _of_name(service, name)


def remove_endpoint(service: Service, name: str) -> WebhookRemoved:
    """Remove an endpoint with all that it has been told, and was to be; raises `UsageError` where there is none."""
    _of_name(service, name)
    return WebhookRemoved(name=name, deliveries=service.kernel.store.webhooks.remove(name) or 0)


def deliveries(
    service: Service,
    *,
    endpoint: str | None = None,
    state: DeliveryState | None = None,
    run_id: str | None = None,
    before: int | None = None,
    limit: int = 50,
) -> list[WebhookDelivery]:
    """Give deliveries, the newest first; those behind the sequence number `before`, if that is given."""
    if endpoint is not None:
        _of_name(service, endpoint)
    store = service.kernel.store.webhooks
    return store.deliveries(endpoint=endpoint, state=state, run_id=run_id, before=before, limit=limit)


def delivery(service: Service, identity: str) -> WebhookDelivery:
    """Give one delivery; raises `UsageError` where there is none."""
    found = service.kernel.store.webhooks.delivery(identity)
    if found is None:
        raise UsageError(f"there is no delivery {identity}: `nightfleet webhooks deliveries` lists them")
    return found


def redeliver(service: Service, identity: str) -> None:
    """Send a delivery again from the beginning, with the same id; raises `UsageError` for one that is being sent right now."""
    found = delivery(service, identity)
    if not service.kernel.store.webhooks.redeliver(identity):
        raise UsageError(
            f"delivery {identity} is being sent to {found.endpoint} right now: look at it again in a moment"
        )


def redeliver_dead(service: Service, endpoint: str) -> int:
    """Send all dead deliveries of an endpoint again; gives how many. Raises `UsageError` where there is no such endpoint."""
    store = service.kernel.store.webhooks
    _of_name(service, endpoint)
    endpoint_id = store.id_of(endpoint)
    count = 0
    while endpoint_id is not None:
        some = store.redeliver_dead(endpoint_id, most=_AT_ONCE)
        count += some
        if some < _AT_ONCE:
            break
    return count


def send_test(service: Service, endpoint: str) -> str:
    """Send a test to an endpoint, whatever it wants to be told; gives the delivery's id. Raises `UsageError`."""
    found = _of_name(service, endpoint)
    if not found.active:
        raise UsageError(f"endpoint {endpoint} is switched off ({found.note}): `nightfleet webhooks enable {endpoint}`")
    store = service.kernel.store.webhooks
    subject = {"endpoint": endpoint, "message": "a test", "sent_at": system_clock.now().isoformat()}
    return store.tell_one(store.id_of(endpoint) or "", EventType.TEST, subject)


def tell_batch(service: Service, result: BatchResult, project: str, workflow: str) -> int:
    """Tell that a batch has come to its end, once however often it does so with the same result; gives to how many."""
    event = EventType.BATCH_FINISHED if result.state == "finished" else EventType.BATCH_STOPPED
    subject = {
        "batch_id": result.id,
        "state": result.state,
        "project": project,
        "workflow": workflow,
        "rows": result.rows,
        "succeeded": result.succeeded,
        "failed": result.failed,
        "malformed": result.malformed,
        "remaining": result.remaining,
        "failures": [{"code": each.code, "count": each.count} for each in result.failures],
    }
    key = f"batch/{result.id}/{result.state}/{result.succeeded}/{result.failed}"
    return service.kernel.store.webhooks.tell(event, subject, project=project, key=key)


def new_secret() -> str:
    """Make a secret that nobody can guess."""
    return secret_of(random_bytes(_KEY_BYTES))


def _of_name(service: Service, name: str) -> WebhookSummary:
    found = {each.name: each for each in endpoints(service)}
    if name not in found:
        raise UsageError(
            f"there is no endpoint {name!r}{did_you_mean(name, found) or ':'} `nightfleet webhooks list` shows what there is"
        )
    return found[name]
