"""Row 3: every message comes twice, one in twenty three times, none in order: the effects are those of a clean run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from chaos.figures import report
from chaos.forms import PATIENCE_SECONDS, SEED, STEADY, brokers, form
from chaos.ledger import AGENTS_PATH, Performed, check_outputs, check_settled, lines
from fleet import Fleet, fleet

RUNS = form(short=80, long=2000)
WIDE = form(short=200, long=3000)
STEPS = 2
TASKS = ("head", "a", "b", "c", "end")


@pytest.mark.scenario
@pytest.mark.timeout(form(short=PATIENCE_SECONDS, long=3600))
@pytest.mark.parametrize("broker", brokers("rabbitmq"))
def test_messages_that_come_twice_and_out_of_order_have_the_effects_of_a_clean_run(broker: str, tmp_path: Path) -> None:
    with fleet(tmp_path, broker, agents_path=AGENTS_PATH, **STEADY) as installation:
        for number in range(2):
            installation.start_worker(NIGHTFLEET_TEST_DELIVERIES=str(SEED + number))
        given = {"steps": STEPS, "seconds": 0.0}
        fork = "head=laborer | [a=laborer, b=laborer, c=laborer] | end=laborer"
        wide = "head=laborer | [" + ", ".join(f"b{number}=laborer" for number in range(WIDE)) + "] | end=laborer"
        installation.orchestrator.submit_many(fork, [given] * RUNS)
        installation.orchestrator.submit(wide, given)
        installation.finish(form(short=300, long=1200))
        check_outputs(installation)
        effects = _effects(installation)
        assert set(effects.values()) == {1}
        assert len(effects) == STEPS * (RUNS * len(TASKS) + WIDE + 2)
        assert {len(executions) for executions in Performed.of(installation).executions.values()} == {1}
        report(
            3,
            broker,
            f"{RUNS:,} fan-ins of 3 and one of {WIDE:,}, every message 2 or 3 times and mixed: {len(effects):,} effects, "
            "each once",
        )
        check_settled(installation)


def _effects(installation: Fleet) -> Counter[tuple[str, str, str]]:
    """How often each effect was performed."""
    return Counter((line.run, line.task, line.effect) for line in lines(installation) if line.event == "effect")
