"""Agents that talk on a real fleet: over both brokers, on one slot and on many, in order and once."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import servers
from fleet import BROKERS, Fleet, fleet, settings_of

from orchestrator import Orchestrator, RunHandle, RunStateConflict, TaskDefinition, WorkflowDefinition
from orchestrator.contracts.mail import MailState
from worker.effects import room

AGENTS = Path(__file__).parents[1] / "talking_agents"


@contextmanager
def talking_fleet(folder: Path, **settings: Any) -> Generator[Fleet]:
    given: dict[str, Any] = {"agents_path": AGENTS, "concurrency": 4, "lease_ttl": 600, **settings}
    with fleet(folder, **given) as installation:
        yield installation


def together(**agents: str) -> WorkflowDefinition:
    """Give a workflow of tasks that run at the same time, by id."""
    return WorkflowDefinition(
        name="talk", tasks=tuple(TaskDefinition(id=key, agent=agent) for key, agent in agents.items())
    )


def outputs(run: RunHandle, seconds: float = 300) -> dict[str, Any]:
    result = run.wait(seconds)
    assert result.state == "succeeded", result.error
    return {each.task: each.output for each in run.snapshot().agent_runs}


@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("kind", ["", "async_", "isolated_"])
def test_agents_on_two_workers_answer_each_other(tmp_path: Path, broker: str, kind: str) -> None:
    with talking_fleet(tmp_path, broker=broker, concurrency=1) as installation:
        for _ in range(2):
            installation.start_worker()
        run = installation.orchestrator.submit(
            together(asker=f"{kind}asker", answerer=f"{kind}answerer"), {"times": 10}
        )
        assert outputs(run)["asker"]["got"] == [10 * number for number in range(10)]


@pytest.mark.parametrize("broker", BROKERS)
def test_two_agents_ask_each_other_a_hundred_times_on_one_slot(tmp_path: Path, broker: str) -> None:
    with talking_fleet(tmp_path, broker=broker, concurrency=1) as installation:
        installation.start_worker()
        run = installation.orchestrator.submit(together(asker="asker", answerer="answerer"), {"times": 100})
        found = outputs(run)
        assert found["asker"]["got"] == [10 * number for number in range(100)]
        assert found["answerer"] == {"answered": 100}


@pytest.mark.parametrize("broker", BROKERS)
def test_each_message_is_received_once_and_in_the_order_of_its_sender(tmp_path: Path, broker: str) -> None:
    tasks = ["ann", "bob", "cat", "dan"]
    with talking_fleet(tmp_path, broker=broker, concurrency=2) as installation:
        for _ in range(2):
            installation.start_worker()
        chat = together(**dict.fromkeys(tasks, "chatter"))
        runs = installation.orchestrator.submit_many(chat, [{"tasks": tasks, "times": 20}] * 5)
        for run in runs:
            for task, got in outputs(run).items():
                assert got == {other: list(range(20)) for other in tasks if other != task}


@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("kind", ["", "isolated_"])
def test_many_that_are_sent_at_once_are_received_once_and_in_their_order(
    tmp_path: Path, broker: str, kind: str
) -> None:
    with talking_fleet(tmp_path, broker=broker, concurrency=1, mailbox_size=150) as installation:
        for _ in range(2):
            installation.start_worker()
        flood = together(flooder=f"{kind}flooder", drain=f"{kind}drain")
        run = installation.orchestrator.submit(flood, {"times": 20, "size": 50})
        assert outputs(run)["drain"] == list(range(1000))


def test_a_sender_stays_in_its_process_while_a_running_recipient_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever suspends over a full mailbox does not come back.
    monkeypatch.setattr(room, "_ROOM_SECONDS", 1e6)
    ledger = tmp_path / "ledger"
    settings = settings_of(home=tmp_path / "home", agents_path=str(AGENTS), mailbox_size=100, suspend_after=600)
    with Orchestrator.embedded(settings=settings) as nf:
        flood = together(flooder="live_flooder", drain="live_drain")
        run = nf.submit(flood, {"times": 20, "size": 50, "ledger": str(ledger)})
        assert outputs(run)["drain"] == list(range(1000))
    assert ledger.read_text() == "floods\n", "it was never executed again"


@contextmanager
def tight(folder: Path) -> Generator[Orchestrator]:
    """Give an installation in this process whose mailboxes hold three messages."""
    settings = settings_of(home=folder / "home", agents_path=str(AGENTS), mailbox_size=3, suspend_after=0.1)
    with Orchestrator.embedded(settings=settings) as nf:
        yield nf


@pytest.mark.parametrize("kind", ["", "isolated_"])
@pytest.mark.parametrize("to", ["report", None])
def test_who_fills_the_mailbox_of_one_that_begins_after_it_is_told_at_that_send(
    tmp_path: Path, kind: str, to: str | None
) -> None:
    tasks = (
        TaskDefinition(id="flood", agent=f"{kind}filler"),
        TaskDefinition(id="middle", agent="idle", after=("flood",)),
        TaskDefinition(id="report", agent="idle", after=("middle",)),
    )
    with tight(tmp_path) as nf:
        data = {"times": 5} if to is None else {"times": 5, "to": {"flood": to}}
        told = outputs(nf.submit(WorkflowDefinition(tasks=tasks), data), 60)["flood"]
        assert told["sent"] == 3
        assert "is full, and it begins only when flood has ended" in told["full"]
        assert "NIGHTFLEET_MAILBOX_SIZE" in told["full"]


def test_who_fills_its_own_mailbox_is_told_at_that_send(tmp_path: Path) -> None:
    with tight(tmp_path) as nf:
        run = nf.submit(together(ann="filler"), {"times": 5, "to": {"ann": "ann"}, "gets": 3})
        told = outputs(run, 60)["ann"]
        assert (told["sent"], told["got"]) == (3, [0, 1, 2])
        assert "the mailbox of ann is full, and nothing else of it goes on" in told["full"]


def test_an_agent_may_send_itself_more_than_its_mailbox_holds_while_another_branch_receives(tmp_path: Path) -> None:
    with tight(tmp_path) as nf:
        run = nf.submit(together(ann="soliloquist"), {"times": 20})
        assert outputs(run, 60)["ann"] == list(range(20))


@pytest.mark.parametrize("kind", ["", "async_", "isolated_"])
def test_of_two_who_send_each_other_more_than_a_mailbox_holds_one_at_least_is_told_and_both_may_go_on(
    tmp_path: Path, kind: str
) -> None:
    with tight(tmp_path) as nf:
        pair = together(ann=f"{kind}filler", bob=f"{kind}filler")
        run = nf.submit(pair, {"times": 5, "to": {"ann": "bob", "bob": "ann"}, "gets": 3})
        found = outputs(run, 120)
        assert [each["got"] for each in found.values()] == [[0, 1, 2], [0, 1, 2]]
        # Both are told; but the one that is slower may find that the other one has made room, or has ended.
        cycles = [f"{one} waits for room in the mailbox of {other}" for one, other in (("ann", "bob"), ("bob", "ann"))]
        assert any(all(cycle in each["full"] for cycle in cycles) for each in found.values())


def test_who_waits_for_room_of_one_that_is_late_is_told_nothing_and_goes_on(tmp_path: Path) -> None:
    with tight(tmp_path) as nf:
        # Longer than two turns of the sweep.
        run = nf.submit(
            together(ann="filler", bob="late_drain"), {"times": 8, "to": {"ann": "bob"}, "gets": 0, "late": 6}
        )
        found = outputs(run, 120)
        assert found == {"ann": {"sent": 8, "full": "", "got": []}, "bob": list(range(8))}


def test_one_that_starts_after_a_message_was_sent_gets_it(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    hearers = tuple(TaskDefinition(id=f"hearer_{number}", agent="hearer") for number in range(3))
    workflow = WorkflowDefinition(name="news", tasks=(TaskDefinition(id="announcer", agent="announcer"), *hearers))
    with talking_fleet(tmp_path, concurrency=1) as installation:
        installation.start_worker(NIGHTFLEET_QUEUES="announcer")
        run = installation.orchestrator.submit(workflow, {"say": "news", "ledger": str(ledger)})
        installation.until(
            lambda: "succeeded" in {part.state for part in run.snapshot().agent_runs}, "the announcer has sent"
        )
        installation.start_worker()
        found = outputs(run)
        assert set(found["announcer"]) == {"hearer_0", "hearer_1", "hearer_2"}
        for number in range(3):
            assert found[f"hearer_{number}"] == {"from": "announcer", "body": "news", "type": "message"}
        began = ledger.read_text().splitlines()
        assert len(began) == 3, "nobody had to be woken: it was sent before they began"


def test_those_who_wait_for_each_other_are_told_so(tmp_path: Path) -> None:
    with talking_fleet(tmp_path, concurrency=1) as installation:
        installation.start_worker()
        run = installation.orchestrator.submit(
            together(ann="waiter", bob="waiter", cat="waiter"), {"of": {"ann": "bob", "bob": "cat", "cat": "ann"}}
        )
        for output in outputs(run).values():
            assert output["waits"] == {"ann": ["bob"], "bob": ["cat"], "cat": ["ann"]}


def test_requests_that_nobody_will_answer_are_errors_of_who_asks(tmp_path: Path) -> None:
    with talking_fleet(tmp_path) as installation:
        installation.start_worker()
        errors = outputs(installation.orchestrator.submit(together(asker="hopeful", mute="mute")))["asker"]
        assert "asker waits for mute, which has succeeded" in errors["mute"]
        assert "'nobody' is neither a task of this run nor an agent of one" in errors["nobody"]


def test_a_reply_after_its_timeout_is_kept_with_its_reason(tmp_path: Path) -> None:
    with talking_fleet(tmp_path, concurrency=1, suspend_after=0.1) as installation:
        installation.start_worker()
        run = installation.orchestrator.submit(together(asker="impatient", slow="slow"), {"timeout": 1})
        assert "none has come in 1 s" in outputs(run)["asker"]["error"]
        *_, reply = installation.orchestrator.messages(run)
        assert (reply.sender, reply.body, reply.state) == ("slow", "late", MailState.DEAD)
        assert reply.reason in {"its recipient has ended", "the request that it answers has timed out"}


@pytest.mark.parametrize("broker", BROKERS)
def test_messages_from_outside_reach_who_waits_for_them(tmp_path: Path, broker: str) -> None:
    with talking_fleet(tmp_path, broker=broker, suspend_after=0.1) as installation:
        installation.start_worker()
        run = installation.orchestrator.submit("hearer", {"outside": True})
        installation.until(lambda: run.snapshot().agent_runs[0].state == "suspended", "it waits")
        sent = [installation.orchestrator.send(run, "hearer", {"n": 1}, type="note", idempotency_key="k") for _ in "ab"]
        assert sent[0] == sent[1]
        assert outputs(run) == {"hearer": {"from": "@outside", "body": {"n": 1}, "type": "note"}}
        with pytest.raises(RunStateConflict, match="has ended"):
            installation.orchestrator.send(run, "hearer", 1)


def test_a_body_that_is_not_what_its_recipient_declares_is_an_error_of_the_sender(tmp_path: Path) -> None:
    with talking_fleet(tmp_path) as installation:
        installation.start_worker()
        found = outputs(installation.orchestrator.submit(together(writer="careless", reader="reader")))
        assert found["reader"] == 0.5
        assert "reader (reader) does not take this message: score: Input should be a valid number" in found["writer"]


@pytest.mark.parametrize("kind", ["", "isolated_"])
def test_a_reply_is_whatever_it_is_and_what_no_message_can_be_is_an_error_of_the_sender(
    tmp_path: Path, kind: str
) -> None:
    settings = settings_of(home=tmp_path / "home", agents_path=str(AGENTS))
    with Orchestrator.embedded(settings=settings) as nf:
        run = nf.submit(together(orderer=f"{kind}orderer", answerer="answerer"), {"times": 1})
        reply, *errors = outputs(run)["orderer"]
    assert reply == {"n": 40}
    assert len(errors) == 2
    assert all(error.startswith("the body of a message is no JSON: ") for error in errors)


def test_a_message_from_another_process_wakes_a_run_of_an_embedded_one(tmp_path: Path) -> None:
    settings = settings_of(home=tmp_path / "home", agents_path=str(AGENTS), suspend_after=0.1)
    with Orchestrator.embedded(settings=settings) as nf, Orchestrator.embedded(settings=settings) as other:
        run = nf.submit("hearer", {"outside": True})
        assert servers.wait_until(lambda: run.snapshot().agent_runs[0].state == "suspended", 60)
        other.send(run.id, "hearer", "hello")
        assert outputs(run)["hearer"]["body"] == "hello"


def test_a_body_that_is_too_large_or_no_json_is_an_error_of_the_sender(tmp_path: Path) -> None:
    with talking_fleet(tmp_path, max_message_bytes=2000) as installation:
        installation.start_worker()
        run = installation.orchestrator.submit(together(announcer="announcer", hearer="hearer"), {"say": "x" * 3000})
        result = run.wait(120)
        assert result.error is not None
        assert (result.error.code, result.error.task) == ("value_too_large", "announcer")
        assert "the limit is 2,000" in result.error.message


@pytest.mark.parametrize("kind", BROKERS)
def test_what_was_sent_while_the_broker_was_away_comes_when_it_is_back(tmp_path: Path, kind: str) -> None:
    go = tmp_path / "go"
    with (
        servers.private_rabbitmq() if kind == "rabbitmq" else servers.private_redis() as server,
        talking_fleet(tmp_path, broker=kind, broker_url=server.url, suspend_after=0.1) as installation,
    ):
        installation.start_worker()
        talk = together(announcer="announcer", hearer="hearer")
        run = installation.orchestrator.submit(talk, {"until": str(go), "say": "news"})
        installation.until(lambda: ("hearer", "suspended") in states(installation), "it waits")
        server.stop(immediate=True)
        go.touch()
        installation.until(lambda: ("hearer", "queued") in states(installation), "the row is there, the wake-up is not")
        server.start()
        assert outputs(run)["hearer"]["body"] == "news"


def states(installation: Fleet) -> list[tuple[str, str]]:
    return installation.query("SELECT task, state FROM agent_run")


def test_every_message_is_in_the_log_of_its_workers_with_run_and_agent(tmp_path: Path) -> None:
    with talking_fleet(tmp_path, log_level="INFO", log_format="json") as installation:
        installation.start_worker()
        run = installation.orchestrator.submit(together(announcer="announcer", hearer="hearer"))
        outputs(run)
        lines = [
            json.loads(line) for line in (tmp_path / "worker-0.log").read_text().splitlines() if '"message ' in line
        ]
        told = {line["event"]: line for line in lines}
        assert told["message sent"]["to"] == "hearer"
        assert {line["run_id"] for line in lines} == {run.id}
        assert (told["message sent"]["task"], told["message received"]["task"]) == ("announcer", "hearer")
