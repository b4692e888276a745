"""A message is only a wake-up: lost ones are published again, waiting ones are left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from fleet import BROKERS, Fleet, fleet

from orchestrator.failpoints import armed
from orchestrator.recovery import Sweep


def wipe_queue(installation: Fleet, agent: str) -> int:
    with installation.kernel.app.connection_for_write() as connection:
        queue = installation.kernel.app.queue_for(f"agent.{agent}")(connection.default_channel)
        return int(queue.purge() or 0)


@pytest.mark.parametrize("broker", BROKERS)
def test_a_message_lost_on_a_quiet_queue_while_no_slot_is_free_is_published_again_in_60_to_90_seconds(
    broker: str, tmp_path: Path
) -> None:
    until = tmp_path / "go"
    with fleet(tmp_path, broker, concurrency=3) as installation:
        installation.start_worker()
        installation.orchestrator.submit_many("blocker", ({"until": str(until)} for _ in range(6)))
        installation.until(lambda: sum(installation.executions("begin").values()) == 3, "all slots are taken")
        with armed("publish=drop"):
            lost = installation.orchestrator.submit("quiet")
        # As if that had been 55 s ago, however long it took: the rest of the time passes.
        installation.query(
            "UPDATE agent_run SET queued_at = now() - interval '55 s', published_at = now() - interval '55 s'"
            " WHERE run_id = %s",
            lost.id,
        )
        again = "SELECT extract(epoch FROM published_at - queued_at)::float FROM agent_run WHERE agent = 'quiet' AND dispatch > 1"
        age = installation.until(lambda: installation.query(again), "it is published again")[0][0]
        assert 60 <= age <= 90
        assert installation.query("SELECT max(dispatch) FROM agent_run WHERE agent = 'blocker'") == [(1,)]
        until.touch()
        assert lost.wait(120).state == "succeeded"
        installation.finish()


@pytest.mark.parametrize("broker", BROKERS)
def test_a_broker_wiped_clean_under_five_hundred_queued_agent_runs_loses_none(broker: str, tmp_path: Path) -> None:
    with fleet(tmp_path, broker) as installation:
        known(installation, "branch")
        installation.orchestrator.submit_many("branch", [{}] * 500)
        assert wipe_queue(installation, "branch") == 500
        installation.start_worker()
        installation.finish()
        assert installation.query("SELECT state, count(*) FROM run GROUP BY 1") == [("succeeded", 500)]
        assert set(installation.executions().values()) == {1}


def test_a_message_lost_under_traffic_is_published_again_once_later_ones_have_overtaken_it(tmp_path: Path) -> None:
    with fleet(tmp_path) as installation:
        known(installation, "branch")
        with armed("publish=drop"):
            lost = installation.orchestrator.submit("branch")
        overtaking = installation.orchestrator.submit("branch")
        # As if both had happened two minutes ago, the overtaking one a minute after the lost one.
        installation.query("UPDATE agent_run SET published_at = now() - interval '2 min' WHERE run_id = %s", lost.id)
        installation.query(
            "UPDATE agent_run SET published_at = now() - interval '1 min', claimed_at = now() - interval '40 s',"
            " state = 'succeeded' WHERE run_id = %s",
            overtaking.id,
        )
        assert tick(installation) == 1
        assert tick(installation) == 0
        assert installation.query("SELECT dispatch FROM agent_run WHERE run_id = %s", lost.id) == [(2,)]


def test_a_backlog_of_a_hundred_thousand_causes_no_publication(tmp_path: Path) -> None:
    with fleet(tmp_path) as installation:
        known(installation, "branch")
        installation.orchestrator.submit_many("branch", ({} for _ in range(100_000)))
        # As old as the rule for old rows looks at, on a queue that nobody has served for an hour.
        installation.query("UPDATE agent_run SET published_at = now() - interval '1 hour', queued_at = published_at")
        assert [tick(installation) for _ in range(3)] == [0, 0, 0]
        assert installation.query("SELECT max(dispatch) FROM agent_run") == [(1,)]
        assert installation.broker_depths() == 100_000


def known(installation: Fleet, *agents: str) -> None:
    """Announce agents without a worker that serves them."""
    for agent in agents:
        installation.query(
            "INSERT INTO agent (name, queue, card, updated_at) VALUES (%s, %s, %s, now()) ON CONFLICT DO NOTHING",
            agent,
            f"agent.{agent}",
            '{"name": "' + agent + '", "digest": "00000000"}',
        )


def tick(installation: Fleet) -> int:
    """Sweep once, whoever's turn it is; gives how many messages were published again."""
    kernel = installation.kernel
    installation.query("UPDATE sweep SET ran_at = now() - interval '1 hour'")
    return Sweep(kernel.store, kernel.advancer, kernel.publisher, kernel.settings).tick().republished
