"""Row 10: a long conversation whose worker is killed and deployed anew: each call is paid once, each message stored once."""

from __future__ import annotations

import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import pytest
from chaos.figures import report
from chaos.forms import PATIENCE_SECONDS, QUICK, SEED, brokers, form
from chaos.ledger import AGENTS_PATH, check_settled
from fleet import Fleet, fleet

from orchestrator.contracts.replay import Verdict
from orchestrator.contracts.run import RunResult
from orchestrator.journal.encoding import LONG
from worker.emulator import Emulator
from worker.replay import replay_run

WORKERS = form(short=1, long=2)
CALLS = form(short=24, long=100)
#: Of what the agent says in each call; the model answers with some hundred.
CHARACTERS = 8_000
LATENCY_SECONDS = form(short=0.3, long=1.0)
#: What happens to the fleet, evenly over the conversation. After its first kill it is a suspect, in a process of its own.
FAULTS = form(short=("deploy", "kill"), long=("deploy", "kill", "kill", "deploy", "kill"))
#: A fault comes when at least so many calls are made, and some more by chance. Then it comes before the conversation passes
#: a gate, however late it is: so none finds the conversation at its end.
FAULTS_FROM = [CALLS * number // (len(FAULTS) + 1) for number in range(1, len(FAULTS) + 1)]
FAULTS_WITHIN = CALLS // 8
GATES = [number + FAULTS_WITHIN + 2 for number in FAULTS_FROM]
#: The first half of it lets the conversation go on, up to a gate, and the second one is more than a call needs.
DRAIN_SECONDS = form(short=8, long=10)
MOST_STORED = 1.2
#: Figures in a row have more digits later on.
MORE_DIGITS = 32

CALLS_RECORDED = "SELECT number, epoch, (usage->>'input_tokens')::int FROM journal WHERE state = 'done' ORDER BY number"
#: Sizes of rows, with their headers and all that they hold.
CONTENT = "SELECT count(*), sum(pg_column_size(c.*))::int, max(pg_column_size(c.*)) FROM content c"
JOURNAL = "SELECT pg_column_size(j.*) FROM journal j ORDER BY number"
#: With indexes and what pages leave free.
ON_DISK = "SELECT sum(pg_total_relation_size(table_name))::int FROM (VALUES ('content'), ('journal')) t(table_name)"


@dataclass
class Fate:
    """What happens to the fleet in the course of a conversation."""

    installation: Fleet
    emulator: Emulator
    #: The claims, by their epoch, whose worker was killed.
    killed: list[int] = field(default_factory=list[int])

    def wait_for_call(self, number: int) -> None:
        """Wait until so many calls have been paid for, each counted once."""
        self.installation.until(
            lambda: len({call.input_tokens for call in self.emulator.calls}) >= number, f"call {number} is made", 300
        )

    def kill(self) -> None:
        """Kill the worker that has the conversation; another one takes its place."""
        epoch, holder = self._holder()
        self.installation.kill(holder)
        self.killed.append(epoch)
        with self.emulator.held():  # it would be over before a worker has started on a slow machine
            self.installation.start_worker(**self.emulator.env)

    def deploy(self) -> None:
        """Replace each worker by a new one, last the one that has the conversation: it has a call in flight then."""
        _, holder = self._holder()
        old = [worker for worker in self.installation.workers if worker.poll() is None and worker is not holder]
        with self.emulator.held():
            for worker in old:
                self.installation.start_worker(**self.emulator.env)
                assert self.installation.stop_worker(worker) == 0
            self.installation.start_worker(**self.emulator.env)
            holder.terminate()
        assert holder.wait(120) == 0

    def _holder(self) -> tuple[int, subprocess.Popen[bytes]]:
        """Give the claim of the conversation, by its epoch, and the worker that has it."""
        epoch, pid = self.installation.until(self._claim, "a worker has the conversation")
        [holder] = [worker for worker in self.installation.workers if worker.pid == pid]
        return epoch, holder

    def _claim(self) -> tuple[int, int] | None:
        found = self.installation.query(
            "SELECT a.epoch, w.pid FROM agent_run a JOIN worker w ON w.id = a.worker_id WHERE a.state = 'running'"
        )
        return found[0] if found else None


@pytest.mark.scenario
@pytest.mark.timeout(form(short=PATIENCE_SECONDS, long=1800))
@pytest.mark.parametrize("broker", brokers("redis"))
def test_a_long_conversation_survives_kills_and_deploys_and_is_paid_and_stored_once(
    broker: str, tmp_path: Path
) -> None:
    chance = Random(SEED)
    with (
        Emulator(latency_seconds=LATENCY_SECONDS) as emulator,
        fleet(tmp_path, broker, agents_path=AGENTS_PATH, drain_timeout=DRAIN_SECONDS, **QUICK) as installation,
    ):
        fate = Fate(installation, emulator)
        for _ in range(WORKERS):
            installation.start_worker(**emulator.env)
        gates = {number: tmp_path / f"gate {number}" for number in GATES}
        given = {"calls": CALLS, "characters": CHARACTERS, "gates": {str(n): str(gate) for n, gate in gates.items()}}
        run = installation.orchestrator.submit("talker", given)
        for number, fault, gate in zip(FAULTS_FROM, FAULTS, gates.values(), strict=True):
            fate.wait_for_call(number + chance.randrange(FAULTS_WITHIN))
            threading.Event().wait(chance.random() * LATENCY_SECONDS)
            fate.kill() if fault == "kill" else fate.deploy()
            gate.touch()
        done = run.wait(form(short=300, long=600))
        [part] = done.agent_runs
        assert (done.state, part.failures, part.crashes) == ("succeeded", 0, 0)
        assert part.epoch >= 1 + len(FAULTS), "it was not taken over after each fault"
        again = calls_paid_again(fate)
        stored = storage(installation, done)
        seconds = seconds_of_replay(installation, done)
        report(
            10,
            broker,
            f"{CALLS} calls, {FAULTS.count('kill')} kills, {FAULTS.count('deploy')} deploys: {CALLS} done, {again} of them "
            f"paid again, each in flight at a kill; {stored}; replayed in {seconds:.1f} s",
        )
        check_settled(installation)


def calls_paid_again(fate: Fate) -> int:
    """Give how many calls were paid for again, and assert that each was in flight at a kill: none by a deploy."""
    rows = fate.installation.query(CALLS_RECORDED)
    assert [number for number, _, _ in rows] == list(range(CALLS))
    # What is sent grows by each call, so its length tells which one it is.
    billed = Counter(call.input_tokens for call in fate.emulator.calls if call.status == 200)
    assert set(billed) == {tokens for _, _, tokens in rows}
    assert len(billed) == CALLS
    in_flight = [next((tokens for _, epoch, tokens in rows if epoch > killed), None) for killed in fate.killed]
    again = billed - Counter(set(billed))
    assert again <= Counter(in_flight), "a call that had an answer was paid again"
    return again.total()


def storage(installation: Fleet, done: RunResult) -> str:
    """Tell how much is stored of the conversation, and assert that nothing is stored twice, and no row grows."""
    journal = installation.kernel.store.journal
    last = list(journal.entries(done.agent_runs[0].id))[-1]
    assert last.head is not None
    messages: list[Any] = journal.conversation(done.id, last.head)
    texts = [*(message["content"] for message in messages), last.outcome["text"]]
    assert sha256("".join(texts).encode()).hexdigest() == done.output["digest"]
    [(rows, in_content, biggest)] = installation.query(CONTENT)
    assert biggest <= CHARACTERS
    assert rows == len(messages) + len({text for text in texts if len(text) >= LONG})

    sizes = [size for (size,) in installation.query(JOURNAL)]
    # Of one kind: an answer that is not long, as some are by chance, stands in its row; others are referred to.
    alike = [size for size, answer in zip(sizes, texts[1::2], strict=True) if len(answer) >= LONG]
    few = len(sizes) // 10
    assert max(alike[-few:]) <= max(alike[:few]) + MORE_DIGITS, "a row grows with the number of calls"
    unique = sum(len(text.encode()) for text in set(texts))
    share = (in_content + sum(sizes)) / unique
    assert share <= MOST_STORED
    [(on_disk,)] = installation.query(ON_DISK)
    return (
        f"{last.usage.input_tokens if last.usage else 0:,} tokens in {unique / 1e6:.2f} MB of text that hardly compresses: rows "
        f"hold {share:.2f} of that, {on_disk / unique:.2f} on disk with indexes and what pages leave free"
    )


def seconds_of_replay(installation: Fleet, done: RunResult) -> float:
    """Give how long it takes to execute the agent again on what it has recorded, and assert that it ends the same."""
    began = time.monotonic()
    replay = replay_run(installation.kernel, done.id, agents_path=AGENTS_PATH)
    seconds = time.monotonic() - began
    assert (replay.verdict, len(replay.effects)) == (Verdict.SAME, CALLS), replay.reason
    return seconds
