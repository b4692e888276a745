"""Rows 1, 3 and 5 for agents that talk: workers are killed, messages of the broker come twice, it restarts; none of theirs
is lost or seen twice, and each sender's come in their order.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from chaos.figures import report
from chaos.forms import PATIENCE_SECONDS, QUICK, SEED, STEADY, brokers, form
from chaos.ledger import AGENTS_PATH
from chaos.proxy import Proxy
from chaos.test_broker_outages import broker_of
from fleet import Fleet, fleet

from orchestrator import TaskDefinition, WorkflowDefinition

AGENTS = Path(__file__).parents[1] / "talking_agents"
TASKS = ["ann", "bob", "cat", "dan"]
MESSAGES = 20
RUNS = form(short=6, long=100)
KILLS = form(short=4, long=60)
CHAT = WorkflowDefinition(name="chat", tasks=tuple(TaskDefinition(id=task, agent="chatter") for task in TASKS))
EXPECTED = {task: {other: list(range(MESSAGES)) for other in TASKS if other != task} for task in TASKS}
PAIRS = len(TASKS) * (len(TASKS) - 1)

HEARERS = tuple(f"hearer_{number}" for number in range(10))
#: The last one waits for another one that ends late: it begins when the message has long been sent.
NEWS = WorkflowDefinition(
    name="news",
    tasks=(
        TaskDefinition(id="announcer", agent="announcer"),
        *(TaskDefinition(id=task, agent="hearer") for task in HEARERS[:-1]),
        TaskDefinition(id=HEARERS[-1], agent="hearer", after=(HEARERS[0],)),
    ),
)
NEWS_RUNS = form(short=60, long=1000)


def submit(installation: Fleet, ledger: Path) -> None:
    given = {"tasks": TASKS, "times": MESSAGES, "ledger": str(ledger)}
    installation.orchestrator.submit_many(CHAT, [given] * RUNS)


def check(installation: Fleet) -> int:
    """Assert that each agent has seen each message once and in its order; gives how many were sent."""
    assert installation.query("SELECT state, count(*) FROM run GROUP BY 1") == [("succeeded", RUNS)]
    for task, output in installation.query("SELECT task, output FROM agent_run"):
        assert output == EXPECTED[task]
    sent = RUNS * PAIRS * MESSAGES
    assert installation.query("SELECT state, count(*) FROM agent_message GROUP BY 1") == [("taken", sent)]
    return sent


def received(ledger: Path) -> int:
    """Give how many messages the agents have worked on so far, repetitions too."""
    return len(ledger.read_text().splitlines()) if ledger.exists() else 0


@pytest.mark.scenario
@pytest.mark.timeout(form(short=PATIENCE_SECONDS, long=3600))
@pytest.mark.parametrize("broker", brokers("rabbitmq"))
def test_agents_that_talk_lose_no_message_when_their_workers_are_killed(broker: str, tmp_path: Path) -> None:
    chance, ledger = Random(SEED), tmp_path / "ledger"
    with fleet(tmp_path, broker, agents_path=AGENTS, concurrency=4, suspend_after=0.2, **QUICK) as installation:
        for _ in range(2):
            installation.start_worker()
        submit(installation, ledger)
        total = RUNS * PAIRS * MESSAGES
        for number in range(KILLS):
            target = total * (number + 1) // (KILLS + 2)
            installation.until(lambda target=target: received(ledger) >= target, "they talk", timeout=300)
            installation.kill(chance.choice([each for each in installation.workers if each.poll() is None]))
            installation.start_worker()
        installation.finish(form(short=300, long=1800))
        sent = check(installation)
        seen = Counter(ledger.read_text().splitlines())
        # Each agent run that was running on what was killed may repeat the step that it was in.
        repeated = sum(seen.values()) - sent
        assert repeated <= KILLS * 4
        report(
            1, broker, f"{sent:,} messages in {RUNS} runs, {KILLS} kills: each received once, {repeated} steps repeated"
        )


@pytest.mark.scenario
@pytest.mark.timeout(form(short=PATIENCE_SECONDS, long=3600))
@pytest.mark.parametrize("broker", brokers("redis"))
def test_agents_that_talk_hear_each_message_once_when_they_are_delivered_twice(broker: str, tmp_path: Path) -> None:
    ledger, agents = tmp_path / "ledger", f"{AGENTS_PATH}:{AGENTS}"
    with fleet(tmp_path, broker, agents_path=agents, concurrency=4, suspend_after=0.2, **STEADY) as installation:
        for number in range(2):
            installation.start_worker(NIGHTFLEET_TEST_DELIVERIES=str(SEED + number))
        submit(installation, ledger)
        installation.finish(form(short=300, long=1800))
        sent = check(installation)
        assert set(Counter(ledger.read_text().splitlines()).values()) == {RUNS}
        report(3, broker, f"{sent:,} messages in {RUNS} runs, every task 2 or 3 times and mixed: each received once")


@pytest.mark.scenario
@pytest.mark.timeout(form(short=PATIENCE_SECONDS, long=3600))
@pytest.mark.parametrize("kind", brokers("redis"))
def test_agents_that_talk_lose_no_message_when_the_broker_comes_and_goes(kind: str, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    lost: dict[str, Any] = form(short={"republish_after": 5}, long={})
    with (
        broker_of(kind) as server,
        Proxy(server.url) as proxy,
        fleet(
            tmp_path, kind, broker_url=proxy.url, agents_path=AGENTS, concurrency=4, suspend_after=0.2, **STEADY, **lost
        ) as installation,
    ):
        for _ in range(2):
            installation.start_worker()
        submit(installation, ledger)
        total = RUNS * PAIRS * MESSAGES
        for number, harm in enumerate((lambda: server.restart(immediate=True), proxy.cut)):
            target = total * (number + 1) // 4
            installation.until(lambda target=target: received(ledger) >= target, "they talk", timeout=300)
            harm()
        installation.finish(form(short=300, long=1800))
        sent = check(installation)
        report(5, kind, f"{sent:,} messages in {RUNS} runs, a restart and all connections cut: each received once")


@pytest.mark.scenario
@pytest.mark.timeout(form(short=PATIENCE_SECONDS, long=3600))
@pytest.mark.parametrize("broker", brokers("rabbitmq"))
def test_what_each_of_many_runs_broadcasts_reaches_all_ten_although_a_worker_is_killed(
    broker: str, tmp_path: Path
) -> None:
    with fleet(tmp_path, broker, agents_path=AGENTS, concurrency=20, suspend_after=0.2, **QUICK) as installation:
        for _ in range(2):
            installation.start_worker()
        runs = installation.orchestrator.submit_many(NEWS, [{"say": number} for number in range(NEWS_RUNS)])
        heard = "SELECT count(*) FROM agent_message WHERE state = 'taken'"
        installation.until(
            lambda: installation.query(heard)[0][0] > NEWS_RUNS * len(HEARERS) / 3, "many have heard it", timeout=600
        )
        installation.kill(installation.workers[0])
        installation.start_worker()
        installation.finish(form(short=300, long=1800))
        count = NEWS_RUNS * len(HEARERS)
        assert installation.query("SELECT state, count(*) FROM agent_message GROUP BY 1") == [("taken", count)]
        said = {run.id: number for number, run in enumerate(runs)}
        got = installation.query("SELECT run_id::text, output -> 'body' FROM agent_run WHERE agent = 'hearer'")
        assert Counter(got) == Counter({(run_id, number): len(HEARERS) for run_id, number in said.items()})
        report(
            1,
            broker,
            f"{NEWS_RUNS:,} runs that each broadcast to 10 agents, a kill: {count:,} messages, each received once",
        )
