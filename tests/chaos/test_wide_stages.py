"""Row 7: wide stages and many joins in one run: messages stay small, and a submit stays quick."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from chaos.figures import report
from chaos.forms import LONG, PATIENCE_SECONDS, STEADY, brokers, form
from chaos.ledger import AGENTS_PATH, check_outputs, check_settled
from fleet import fleet, messages_counted

from orchestrator import parallel, sequential

WIDE = form(short=500, long=10_000)
CHORDS = form(short=10, long=100)
MEMBERS = 10
MOST_BYTES = 4096
MOST_SUBMIT_SECONDS = 5


@pytest.mark.scenario
@pytest.mark.timeout(form(short=PATIENCE_SECONDS, long=1800))
@pytest.mark.parametrize("broker", brokers("redis"))
def test_a_wide_stage_and_many_chords_join_once_with_small_messages(broker: str, tmp_path: Path) -> None:
    counted = tmp_path / "messages"
    wide = "head=laborer | [" + ", ".join(f"w{number}=laborer" for number in range(WIDE)) + "] | end=laborer"
    chords = sequential(
        *(
            parallel(*(f"c{chord}_{member}=laborer" for member in range(MEMBERS)), aggregate=f"j{chord}=laborer")
            for chord in range(CHORDS)
        )
    )
    with fleet(tmp_path, broker, agents_path=AGENTS_PATH, **STEADY) as installation:
        for _ in range(2):
            installation.start_worker(NIGHTFLEET_TEST_MESSAGES=str(counted))
        given = {"steps": 0, "seconds": 0}
        with messages_counted(counted):
            installation.orchestrator.submit("laborer", given).wait(120)
            began = time.monotonic()
            runs = [installation.orchestrator.submit(workflow, given) for workflow in (wide, chords)]
            seconds = time.monotonic() - began
        assert [run.wait(form(short=300, long=900)).state for run in runs] == ["succeeded", "succeeded"]
        sizes = [int(line) for line in counted.read_text().splitlines()]
        assert max(sizes) <= MOST_BYTES
        if LONG:
            assert seconds <= MOST_SUBMIT_SECONDS
        check_outputs(installation)
        report(
            7,
            broker,
            f"a stage of {WIDE:,} and {CHORDS} chords of {MEMBERS}: both submitted within {seconds:.1f} s, "
            f"{len(sizes):,} messages of at most {max(sizes):,} bytes",
        )
        check_settled(installation)
