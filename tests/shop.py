"""A Celery application as adopters have one, with workers, a broker and results of its own, and plain functions."""

# Celery has no annotations.
# pyright: reportUntypedFunctionDecorator=false

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from celery import Celery

_REDIS = os.environ.get("SHOP_REDIS", "redis://localhost:1/0")
_PREFIX = {"global_keyprefix": os.environ.get("SHOP_PREFIX", "shop:")}


def _app(backend: str | None) -> Celery:
    app = Celery("shop", broker=_REDIS, backend=backend, set_as_current=True)
    app.conf.update(
        broker_transport_options=_PREFIX,
        result_backend_transport_options=_PREFIX,
        task_track_started=True,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
    )
    return app


#: Its workers would never tell anybody of the end of a task.
mute = _app(None)
#: Its results are where nobody listens.
deaf = _app("redis://127.0.0.1:1/0")
app = _app(_REDIS)


def note(*words: object) -> None:
    with Path(os.environ["SHOP_LEDGER"]).open("a") as ledger:
        ledger.write(" ".join(map(str, words)) + "\n")


@app.task(name="shop.add")
def add(x: int, y: int) -> int:
    return x + y


@app.task(name="shop.total")
def total(**amounts: int) -> int:
    return sum(amounts.values())


@app.task(name="shop.where", bind=True)
def where(self: Any) -> dict[str, Any]:
    request = self.request
    return {"queue": request.delivery_info["routing_key"], "root": request.root_id, "parent": request.parent_id}


@app.task(name="shop.refuse")
def refuse(why: str) -> None:
    raise ValueError(why)


@app.task(name="shop.flaky", bind=True)
def flaky(self: Any, mark: str) -> dict[str, str]:
    """Fails as a network does, the first time."""
    if not Path(mark).exists():
        Path(mark).touch()
        raise ConnectionError("the bank is away")
    return {"id": self.request.id}


@app.task(name="shop.held", bind=True)
def held(self: Any, until: str) -> dict[str, str]:
    """Holds a slot until a file appears."""
    note("begin", self.request.id)
    while not Path(until).exists():
        threading.Event().wait(0.02)
    note("end", self.request.id)
    return {"id": self.request.id}


@app.task(name="shop.odd")
def odd() -> float:
    return float("nan")


@app.task(name="shop.silent", ignore_result=True)
def silent() -> None:
    return None


def double(value: int) -> dict[str, int]:
    """A plain function; its module makes its own app the current one of the thread that imports it."""
    app.set_current()
    return {"x": value, "y": value}


async def halve(sum: int) -> float:
    return sum / 2
