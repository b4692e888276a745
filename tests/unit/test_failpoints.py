"""Crash points do nothing unless they are armed, and what cannot be armed is an error."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import orchestrator
from orchestrator.errors import SettingsInvalid
from orchestrator.failpoints import ACTIONS, POINTS, FailpointError, arm, armed, failpoint


def test_a_point_that_is_not_armed_does_nothing() -> None:
    assert [failpoint(name) for name in sorted(POINTS)] == [None] * len(POINTS)
    with armed("publish=drop"):
        assert failpoint("after_claim") is None


@pytest.mark.parametrize("action", ["drop", "twice"])
def test_drop_and_twice_are_for_the_caller_to_obey(action: str) -> None:
    with armed(f"publish={action}"):
        assert [failpoint("publish"), failpoint("publish")] == [action, action]


def test_raise_raises_an_error_that_may_be_tried_again() -> None:
    with armed("after_claim=raise"), pytest.raises(FailpointError, match="'after_claim' was armed to raise") as caught:
        failpoint("after_claim")
    assert caught.value.retryable


def test_a_number_lets_it_happen_only_at_that_time() -> None:
    with armed("publish=drop:3"):
        assert [failpoint("publish") for _ in range(5)] == [None, None, "drop", None, None]


def test_several_points_are_armed_at_once() -> None:
    with armed(" publish=twice ; after_claim=raise:2 ;"):
        assert failpoint("publish") == "twice"
        assert failpoint("after_claim") is None
        with pytest.raises(FailpointError):
            failpoint("after_claim")


def test_what_was_armed_before_is_armed_again_after_the_block() -> None:
    with armed("publish=drop"):
        with armed("publish=twice"):
            assert failpoint("publish") == "twice"
        assert failpoint("publish") == "drop"
    assert failpoint("publish") is None


def test_points_are_disarmed_after_an_error_too() -> None:
    with pytest.raises(ZeroDivisionError), armed("publish=drop"):
        raise ZeroDivisionError
    assert failpoint("publish") is None


@pytest.mark.parametrize("text", ["publish", "publish=explode", "publsh=drop", "publish=drop:x", "=drop"])
def test_what_cannot_be_read_is_an_error_that_lists_points_and_actions(text: str) -> None:
    with pytest.raises(SettingsInvalid, match=re.escape(repr(text))) as caught:
        arm(text)
    assert all(word in caught.value.message for word in (*POINTS, *ACTIONS))
    assert failpoint("publish") is None


def test_kill_ends_the_process_as_kill_9_does() -> None:
    code = "from orchestrator.failpoints import arm, failpoint; arm('after_claim=kill'); failpoint('after_claim'); print(1)"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"")
    assert done.stderr == b"killed at failpoint after_claim\n"


def test_every_point_is_reached_somewhere_and_no_other_is_named() -> None:
    root = Path(orchestrator.__file__).parents[1]
    files = [*(root / "orchestrator").rglob("*.py"), *(root / "worker").rglob("*.py")]
    named = {name for file in files for name in re.findall(r'\bfailpoint\("(\w+)"[,)]', file.read_text())}
    assert named == POINTS.keys()


def test_every_point_is_armed_by_a_test_that_fails_when_it_is_not_reached() -> None:
    """By name: whoever arms one to kill sees that nothing has died."""
    tests = Path(__file__).parents[1]
    text = "\n".join(file.read_text() for file in tests.rglob("test_*.py") if file != Path(__file__))
    armed_somewhere = {name for name in POINTS if re.search(rf"""["';]{name}(=\w+|:\d+)?["':;]""", text)}
    assert armed_somewhere == POINTS.keys()


def test_the_page_for_testers_lists_every_point_and_says_what_the_code_says() -> None:
    page = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \| (.*) \|$", page.partition("## Points")[2], re.MULTILINE)
    assert dict(listed) == POINTS


def test_any_point_counts_all_of_them_together() -> None:
    with armed("*=raise:3"):
        assert failpoint("after_claim") is None
        assert failpoint("before_ack") is None
        with pytest.raises(FailpointError, match="'publish'"):
            failpoint("publish")


def test_a_trace_names_every_point_and_what_it_is_about(tmp_path: Path) -> None:
    code = (
        "import os; from orchestrator.failpoints import failpoint, trace_if_asked; trace_if_asked(os.environ); "
        "failpoint('after_claim'); failpoint('before_effect', 'two\\nlines')"
    )
    trace = tmp_path / "trace"
    env = {**os.environ, "NIGHTFLEET_FAILPOINTS_TRACE": str(trace)}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, timeout=60)
    assert trace.read_text() == "after_claim \nbefore_effect two lines\n"
