"""Keeping worker processes alive: real processes, tiny ones."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.command import REPLACE
from worker.supervisor import next_delay

#: A child says that it is there, and ends as it is told on its command line.
CHILD = """
import os, signal, sys, threading
# One system call for each line: two processes and their signal handlers share the pipe.
say = lambda word: os.write(1, f"{word} {os.getpid()}\\n".encode())
from worker.supervisor import drain_when_orphaned
drain_when_orphaned()
stopped = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: "deaf" not in sys.argv and stopped.set())
signal.signal(signal.SIGINT, lambda *_: say("interrupted"))
say("ready")
if "fail" in sys.argv:
    sys.exit(int(sys.argv[-1]))
if "once" in sys.argv and not os.path.exists(sys.argv[-1]):
    open(sys.argv[-1], "w").close()
    sys.exit(int(sys.argv[-2]))
stopped.wait()
say("drained")
"""

PARENT = """
import sys
from worker.supervisor import supervise
child = [sys.executable, "-P", "-c", sys.argv[1]]
sys.exit(supervise([[*child, *each.split()] for each in sys.argv[2:]]))
"""


class Supervisor:
    def __init__(self, *children: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARENT, CHILD, *children],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert self.process.stdout is not None
        self.said = self.process.stdout

    def next_pid(self, word: str) -> int:
        """Read until a child says the word; gives its number."""
        for line in self.said:
            if found := re.match(rf"{word} (\d+)", line):
                return int(found[1])
        raise AssertionError(f"nobody said {word!r}")

    def end(self, number: signal.Signals) -> tuple[int, str]:
        self.process.send_signal(number)
        rest = self.said.read()
        return self.process.wait(60), rest


@pytest.fixture
def two() -> Iterator[Supervisor]:
    made = Supervisor("", "")
    yield made
    made.process.kill()
    made.process.wait()
    made.said.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_all_processes(two: Supervisor, number: signal.Signals) -> None:
    pids = {two.next_pid("ready"), two.next_pid("ready")}
    code, rest = two.end(number)
    assert code == 0
    assert set(map(int, re.findall(r"drained (\d+)", rest))) == pids


def test_a_process_that_dies_is_started_again(two: Supervisor) -> None:
    first, second = two.next_pid("ready"), two.next_pid("ready")
    os.kill(first, signal.SIGKILL)
    third = two.next_pid("ready")
    code, rest = two.end(signal.SIGTERM)
    assert code == 0
    assert set(map(int, re.findall(r"drained (\d+)", rest))) == {second, third}


def test_a_process_that_ends_to_be_replaced_is_replaced_even_at_its_first_start(tmp_path: Path) -> None:
    made = Supervisor("", f"once {REPLACE} {tmp_path / 'replaced'}")
    pids = [made.next_pid("ready") for _ in range(3)]
    assert (tmp_path / "replaced").exists()
    code, rest = made.end(signal.SIGTERM)
    made.said.close()
    assert code == 0
    drained = set(map(int, re.findall(r"drained (\d+)", rest)))
    assert len(drained) == 2
    assert drained < set(pids)


def test_processes_drain_when_their_supervisor_is_killed(two: Supervisor) -> None:
    pids = {two.next_pid("ready"), two.next_pid("ready")}
    two.process.kill()
    assert {two.next_pid("drained"), two.next_pid("drained")} == pids


def test_ctrl_c_in_a_terminal_reaches_the_supervisor_alone() -> None:
    made = Supervisor("", "")
    pids = [made.next_pid("ready"), made.next_pid("ready")]
    assert all(os.getpgid(pid) != os.getpgid(made.process.pid) for pid in pids)
    code, rest = made.end(signal.SIGINT)
    assert code == 0
    assert "interrupted" not in rest
    made.said.close()


def test_a_second_interrupt_kills() -> None:
    made = Supervisor("deaf", "")
    deaf = {made.next_pid("ready"), made.next_pid("ready")}
    made.process.send_signal(signal.SIGINT)
    deaf.remove(made.next_pid("drained"))
    code, _ = made.end(signal.SIGINT)
    assert code == 130
    with pytest.raises(ProcessLookupError):
        os.kill(deaf.pop(), 0)
    made.said.close()


@pytest.mark.parametrize("code", [2, 3])
def test_a_first_start_that_cannot_work_ends_everything(code: int) -> None:
    made = Supervisor("", f"fail {code}")
    assert made.process.wait(60) == code
    made.said.close()


def test_the_delay_doubles_and_a_minute_of_health_resets_it() -> None:
    delays = [0.0]
    for _ in range(8):
        delays.append(next_delay(delays[-1], 1.0))
    assert delays == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert next_delay(30.0, 60.0) == 0.5
