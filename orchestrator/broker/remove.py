"""Removes what an installation has left at its broker: for installations that live as long as a test."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.broker.app import FleetApp


def remove(app: FleetApp, queues: Iterable[str]) -> None:
    """Remove these queues with what is in them, and the exchanges of events and of remote control."""
    conf = app.conf
    exchanges = (conf.event_exchange, f"{conf.control_exchange}.pidbox", f"reply.{conf.control_exchange}.pidbox")
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        for name in queues:
            app.queue_for(name)(channel).delete()
        for name in exchanges:
            channel.exchange_delete(name)
