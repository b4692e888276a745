"""The sweep on a real Postgres: over a backlog of 100,000 agent runs, and while the server is restarted."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest
import servers
from fleet import settings_of
from steps import WORKER, Steps, ago, plan_of, task

from orchestrator.advance import Advancer
from orchestrator.contracts.agent import AgentCard
from orchestrator.errors import DatabaseUnavailable
from orchestrator.recovery import Sweep, Swept
from orchestrator.settings import Settings
from orchestrator.store import schema
from orchestrator.store.database import Database
from orchestrator.store.store import Store

COUNT = 100_000
LANES = 50

#: Published one after the other over ten minutes, on fifty queues, the first in part claimed, all others waiting.
BACKLOG = """
INSERT INTO {agent_run} (id, tenant_id, run_id, task, position, agent, queue, priority, state, predecessors, gated,
                         epoch, failures, crashes, dispatch, queued_at, published_at, claimed_at)
SELECT gen_random_uuid(), tenant_id, run_id, 'a' || n, n, agent, queue || n %% {lanes}, priority,
       CASE WHEN n < {claimed} THEN 'succeeded' ELSE 'queued' END, predecessors, gated, epoch, failures, crashes, dispatch,
       now(), now() - interval '600 s' + n * interval '540 s' / {count},
       CASE WHEN n < {claimed} THEN now() - interval '120 s' + n * interval '80 s' / {claimed} END
FROM {agent_run}, generate_series(1, {count}) n
"""


class Broker:
    """A broker that holds every message, and notes what it is given beyond."""

    def __init__(self) -> None:
        self.published: list[str] = []
        self.held: int | None = COUNT // LANES

    def publish(self, messages: Any) -> None:
        self.published += [message.task_id for message in messages]

    def depth(self, name: str) -> int | None:
        del name
        return self.held


class Backlog:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.store = Store(database)
        steps = Steps(self.store, plan_of(task("a")))
        steps.start()
        self.store.fleet.join(
            WORKER, name="w", pid=1, slots=1, cards=[AgentCard(name=f"a{n}", digest="0123456789") for n in range(LANES)]
        )
        self.execute(BACKLOG.format(agent_run=self.table, lanes=LANES, count=COUNT, claimed=COUNT // 10))
        self.broker = Broker()
        self.sweep = Sweep(self.store, Advancer(self.store, cast("Any", self.broker)), self.broker, Settings())

    @property
    def table(self) -> str:
        return self.database.qualify("agent_run")

    def execute(self, sql: str) -> None:
        with self.database.connect() as connection:
            connection.exec_driver_sql(sql)

    def tick(self) -> Swept:
        """Sweep, busy as its only worker is, with nothing held back by the interval."""
        self.store.fleet.beat(WORKER, slots=1, idle=False, draining=False)
        self.execute(f"UPDATE {self.database.qualify('sweep')} SET ran_at = now() - interval '1 h', held_until = NULL")
        return self.sweep.tick()


def test_a_backlog_of_a_hundred_thousand_is_published_once_and_a_loss_in_its_middle_again(postgres: Database) -> None:
    backlog = Backlog(postgres)
    backlog.tick()
    backlog.broker.published.clear()
    assert sum(backlog.tick().republished for _ in range(2)) == 0
    backlog.broker.held = None
    assert backlog.tick().republished == 0
    assert backlog.broker.published == []
    backlog.execute(
        f"UPDATE {backlog.table} SET published_at = now() - interval '1 h' WHERE id IN "
        f"(SELECT id FROM {backlog.table} WHERE state = 'queued' AND queue = 'agent.a7' LIMIT 20)"
    )
    assert backlog.tick().republished == 20
    assert backlog.tick().republished == 0
    assert len(set(backlog.broker.published)) == 20


# A database that goes away in the middle ----------------------------------------------------------------------------------


def test_a_sweep_survives_a_restart_of_postgres_in_its_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    with servers.private_postgres() as server:
        database = Database(
            server.url, schema="nightfleet", pool_size=4, connect_timeout=Settings().connect_timeout, prepare=True
        )
        schema.upgrade(database)
        store, broker = Store(database), Broker()
        broker.held = 0
        settings = settings_of(heartbeat=0.2, lease_ttl=0.5, sweep_interval=0.01)
        sweep = Sweep(store, Advancer(store, cast("Any", broker)), broker, settings)
        steps = Steps(store, plan_of(task("a")))
        [run_id] = steps.start()
        steps.change(run_id, "a", published_at=ago(database, 100))
        lanes = store.repairs.lanes

        def crash_first() -> Any:
            monkeypatch.setattr(store.repairs, "lanes", lanes)
            server.stop(immediate=True)
            return lanes()

        monkeypatch.setattr(store.repairs, "lanes", crash_first)
        with pytest.raises(DatabaseUnavailable):
            sweep.tick()
        server.start()
        pause = threading.Event()
        # The turn that was interrupted passes on when its lease has passed.
        assert any(sweep.tick().republished or pause.wait(0.02) for _ in range(500))
        assert steps.row(run_id, "a")["republished"] == 1
        database.close()
