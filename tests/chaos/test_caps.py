"""Row 13: workers are killed under a cap with 64 calls in flight: no budget is overshot, and the ledger is the bill."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest
from chaos.figures import report
from chaos.forms import PATIENCE_SECONDS, QUICK, SEED, STEADY, brokers, form
from fleet import Fleet, broker_url, fleet

from orchestrator import RunHandle
from orchestrator.contracts.budget import BudgetSummary
from orchestrator.contracts.money import to_nanousd, to_usd
from worker.emulator import Answer, Emulator, Latency, Match, Price, Rule, Setup
from worker.emulator.bill import Call

AGENTS = Path(__file__).parents[1] / "model_agents"
PRICE = Price(input=Decimal("0.25"), output=Decimal("10.00"), cached_input=Decimal("0.025"))
PRICES = '[[prices]]\nmodel = "openai:*"\ninput = 0.25\noutput = 10.00\ncached_input = 0.025\n'
#: What is asked for at most, and answers that use nearly all of it, and less.
MOST_TOKENS = 200
ANSWERS = (Answer(text="long " * 114), Answer(text="less " * 100))

WORKERS = 3
#: More slots than callers: those of a user wait in them for her quota.
SLOTS = 28
CALLERS, OF_ADA = 64, 8
#: Sequential calls of each agent run, more than a cap of a tenth of all lets it make.
CALLS = form(short=12, long=60)
KILLS = form(short=2, long=12)
#: What a user may spend, in worst cases of one call.
QUOTA = Decimal("3.2")

#: Agent runs that one cap pauses, and for how many seconds nobody may ask: several sweeps.
PAUSED = form(short=150, long=1000)
LOOKING_SECONDS = form(short=3, long=30)
#: Versions of all rows that a call which asks for money writes, or an agent run that is woken.
TOUCHED = """
SELECT 'wait', call_id::text, xmin::text FROM budget_wait UNION ALL SELECT 'agent run', id::text, xmin::text FROM agent_run
UNION ALL SELECT 'budget', id::text, xmin::text FROM budget ORDER BY 1, 2
"""

UNFINISHED = "SELECT count(*) FROM agent_run WHERE state NOT IN ('suspended', 'succeeded')"
IN_FLIGHT = "SELECT count(*) FROM model_call WHERE state = 'reserved'"
SETTLED = "SELECT request_id, cost_nanousd, agent_run_id::text, slot FROM model_call WHERE state = 'settled'"
UNKNOWN = "SELECT agent_run_id::text, slot, count(*) FROM model_call WHERE state = 'unknown' GROUP BY 1, 2"


@dataclass(frozen=True)
class Scene:
    """A fleet, the provider that it asks, and the budgets that it has to keep."""

    installation: Fleet
    emulator: Emulator
    words: Iterator[int] = field(default_factory=count)

    def submit(self, project: str, callers: int, calls: int = CALLS, **given: Any) -> list[RunHandle]:
        # Words of one length, so that all cost the same, each of its own, so that no two ask the same.
        words = [f"{next(self.words):05}" for _ in range(callers)]
        inputs = [{"word": word, "calls": calls, "most": MOST_TOKENS} for word in words]
        return self.installation.orchestrator.submit_many("chain", inputs, project=project, **given)

    def start_worker(self) -> None:
        self.installation.start_worker(**self.emulator.env)

    def kill_one(self, chance: Random) -> None:
        self.installation.kill(chance.choice([each for each in self.installation.workers if each.poll() is None]))

    def wait_until_paused(self) -> None:
        """Wait until all that can still run has run: nothing is in flight, and every agent run waits for money in vain.

        That is so when a sweep that has begun then has found room for nobody: it wakes who waits.
        """
        query = self.installation.query
        quiet = lambda: (query(UNFINISHED), query(IN_FLIGHT)) == ([(0,)], [(0,)])  # noqa: E731

        def paused() -> bool:
            if not quiet():
                return False
            [(begun,)] = query("SELECT ran_at FROM sweep WHERE id = 1")
            swept = "SELECT count(*) FROM sweep WHERE id = 1 AND ran_at > %s AND held_until IS NULL"
            self.installation.until(lambda: query(swept, begun) == [(1,)], "a sweep has come to its end")
            return quiet()

        self.installation.until(paused, "everything is paused", timeout=form(short=300, long=600))

    def budget(self, scope: str) -> BudgetSummary:
        [found] = self.installation.orchestrator.budgets(scope)
        return found

    def spent(self, scope: str) -> tuple[int, int]:
        """Give what is settled of a budget, and what unknown outcomes keep."""
        found = self.budget(scope)
        assert (found.reserved_usd, found.over_usd) == ("0", "0")
        return to_nanousd(Decimal(found.spent_usd)), to_nanousd(Decimal(found.unknown_usd))

    def check_ledger(self, bill: Sequence[Call]) -> int:
        """Compare the ledger with the bill, line by line; gives how many lines of the bill nobody has settled.

        A line that is settled costs what the bill says, under the provider's own number. One that is not is that of a call
        whose worker has died over it: its place is among those of unknown outcome, as often.
        """
        lines = {call.request_id: call for call in bill}
        settled = self.installation.query(SETTLED)
        assert len(settled) == len({row[0] for row in settled}), "no line of the bill is settled twice"
        assert {row[0]: row[1] for row in settled} == {row[0]: lines[row[0]].cost_nanousd for row in settled}
        #: The body of a request is that of one place: so a call that nobody has settled is told by one that somebody has.
        place_of = {lines[request].fingerprint: (agent_run, slot) for request, _, agent_run, slot in settled}
        left = [lines[request] for request in lines.keys() - {row[0] for row in settled}]
        unknown = Counter({(agent_run, slot): times for agent_run, slot, times in self.installation.query(UNKNOWN)})
        lost = Counter(place_of[call.fingerprint] for call in left)
        assert lost <= unknown, "a call that was paid for is in no ledger"
        return len(left)


@pytest.mark.scenario
@pytest.mark.timeout(form(short=PATIENCE_SECONDS, long=3600))
@pytest.mark.parametrize("broker", brokers("rabbitmq"))
def test_no_budget_is_overshot_whoever_dies_and_all_of_it_can_be_used(broker: str, tmp_path: Path) -> None:
    chance = Random(SEED)
    with _installation(tmp_path, broker, QUICK) as scene:
        installation, emulator = scene.installation, scene.emulator
        for _ in range(WORKERS):
            scene.start_worker()
        cap, quota, worst = _set_budgets(scene)
        before = emulator.bill.cost_nanousd
        with emulator.held():
            runs = scene.submit("press", OF_ADA, user="ada") + scene.submit("press", CALLERS)
            in_flight = CALLERS + int(QUOTA)
            installation.until(lambda: emulator.most_in_flight >= in_flight, f"{in_flight} calls are in flight")
            scene.kill_one(chance)
        scene.start_worker()
        for kill in range(1, KILLS):
            target = before + cap * kill * 2 // (KILLS * 3)
            installation.until(lambda target=target: emulator.bill.cost_nanousd >= target, "calls go on", timeout=300)
            scene.kill_one(chance)
            scene.start_worker()
        scene.wait_until_paused()

        billed = emulator.bill.cost_nanousd - before
        settled, unknown = scene.spent("project/press")
        assert settled <= billed <= cap, "the provider's bill, with the calls of the dead, is within the cap"
        assert settled + unknown <= cap < settled + unknown + worst, "not one more call would have fitted"
        usable = cap - unknown
        assert settled >= 0.95 * usable
        adas, adas_unknown = scene.spent("user/ada")
        assert adas + adas_unknown <= quota < adas + adas_unknown + worst, (
            "and so it is with a user's quota inside of it"
        )
        # What the dead had waited for is forgotten by a sweep.
        waiting = lambda: scene.budget("project/press").waiting + scene.budget("user/ada").waiting  # noqa: E731
        installation.until(lambda: waiting() == len(runs), "nobody could make all of its calls, and each waits once")

        made = len(emulator.calls)
        installation.orchestrator.raise_budget("user/ada", to_usd(cap * 20))
        installation.orchestrator.raise_budget("project/press", to_usd(cap * 20))
        installation.finish(form(short=300, long=1800))
        assert {str(run.state) for run in runs} == {"succeeded"}
        assert len(emulator.calls) > made
        paid_again = scene.check_ledger(emulator.calls)
        assert installation.query(IN_FLIGHT) == installation.query("SELECT count(*) FROM budget_wait") == [(0,)]
        assert (
            scene.spent("project/press")[0] <= emulator.bill.cost_nanousd - before <= sum(scene.spent("project/press"))
        )
        report(
            13,
            broker,
            f"{KILLS} kills under a cap of a tenth of {len(runs) * CALLS:,} calls, {emulator.most_in_flight} of them in flight: "
            f"{billed / cap:.1%} of it billed, {settled / usable:.1%} of what unknown outcomes left used, "
            f"{unknown / cap:.1%} kept for those; then raised: {len(emulator.calls):,} calls billed, {paid_again} of them of "
            "the dead and unknown, each other one settled to the nanodollar",
        )


@contextmanager
def _installation(folder: Path, broker: str, leases: dict[str, Any]) -> Generator[Scene]:
    (folder / "models.toml").write_text(PRICES)
    settings = {"agents_path": AGENTS, "models_file": folder / "models.toml", "redis_url": broker_url("redis")}
    with (
        Emulator(setup=_setup()) as emulator,
        fleet(folder, broker, concurrency=SLOTS, **settings, **leases) as installation,
    ):
        yield Scene(installation, emulator)


def _setup() -> Setup:
    even, odd = (Match(text=f"^[0-9]*[{digits}] ") for digits in ("02468", "13579"))
    rules = tuple(
        Rule(when=when, replies=(told,), repeat=True) for when, told in zip((even, odd), ANSWERS, strict=True)
    )
    return Setup(latency=Latency(shape="uniform", low=0.6, high=1.0), prices=(PRICE,), rules=rules)


def _set_budgets(scene: Scene) -> tuple[int, int, int]:
    """Let one agent run go through to see what all cost, and set a tenth of that; gives cap, quota, and a call's worst."""
    scene.submit("rehearsal", 1)
    scene.installation.finish()
    full = scene.emulator.bill.cost_nanousd * (CALLERS + OF_ADA)
    [(worst,)] = scene.installation.query("SELECT max(reserved_nanousd) FROM model_call")
    cap, quota = full // 10, int(worst * QUOTA)
    scene.installation.orchestrator.set_budget("project/press", to_usd(cap))
    scene.installation.orchestrator.set_budget("user/ada", to_usd(quota))
    assert cap > CALLERS * worst + quota, "so many calls can be in flight at once"
    return cap, quota, worst


@pytest.mark.scenario
@pytest.mark.timeout(PATIENCE_SECONDS)
def test_a_cap_pauses_everybody_at_the_cost_of_nothing_and_a_raise_wakes_all(tmp_path: Path) -> None:
    with _installation(tmp_path, "rabbitmq", STEADY) as scene:
        scene.start_worker()
        scene.installation.orchestrator.set_budget("project/press", Decimal("0.000001"))
        runs = scene.submit("press", PAUSED, calls=1)
        scene.wait_until_paused()
        assert scene.budget("project/press").waiting == PAUSED

        before = scene.installation.query(TOUCHED)
        threading.Event().wait(LOOKING_SECONDS)
        assert scene.installation.query(TOUCHED) == before, "nobody has asked for money, and no agent run was looked at"

        scene.installation.orchestrator.raise_budget("project/press", 1000)
        scene.installation.finish(form(short=300, long=500))
        assert {str(run.state) for run in runs} == {"succeeded"}
        assert scene.installation.query("SELECT DISTINCT epoch FROM agent_run") == [(2,)], "each was woken once"
        assert len(scene.emulator.calls) == PAUSED
