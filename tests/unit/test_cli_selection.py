"""Which runs are meant: ages, times, filters, and what cannot be changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from orchestrator.commands.selection import Selection, moment_of
from orchestrator.commands.targets import CANCEL, RETRY, Change, Targets
from orchestrator.contracts.run import RUN_TRANSITIONS, RunFilter, RunState
from orchestrator.errors import UsageError

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90s", NOW - timedelta(seconds=90)),
        ("15m", NOW - timedelta(minutes=15)),
        ("2h", NOW - timedelta(hours=2)),
        (" 1.5H ", NOW - timedelta(minutes=90)),
        ("3d", NOW - timedelta(days=3)),
        ("1w", NOW - timedelta(weeks=1)),
        ("0s", NOW),
        ("2026-04-30", datetime(2026, 4, 30, tzinfo=UTC)),
        ("2026-04-30T22:00", datetime(2026, 4, 30, 22, tzinfo=UTC)),
        ("2026-04-30T22:00Z", datetime(2026, 4, 30, 22, tzinfo=UTC)),
        ("2026-04-30 22:00:01+02:00", datetime(2026, 4, 30, 22, 0, 1, tzinfo=timezone(timedelta(hours=2)))),
    ],
)
def test_an_age_or_a_time_is_a_moment(text: str, moment: datetime) -> None:
    assert moment_of(text, NOW) == moment


@pytest.mark.parametrize(
    "text", ["", "2", "h", "-2h", "2y", "2 hours", "yesterday", "999999999w", "2026-13-01", "1e3s"]
)
def test_what_is_neither_an_age_nor_a_time_says_what_would_be(text: str) -> None:
    with pytest.raises(UsageError, match="neither an age such as 90s"):
        moment_of(text, NOW)


def test_a_selection_is_a_filter_with_the_same_conditions() -> None:
    assert not Selection()
    assert Selection().filter() == RunFilter()
    everything = Selection("press", ("failed", "cancelled"), "daily", "agent_timeout", NOW, NOW)
    assert everything.filter() == RunFilter(
        project="press",
        states=(RunState.FAILED, RunState.CANCELLED),
        workflow="daily",
        error="agent_timeout",
        since=NOW,
        before=NOW,
    )


def test_a_filter_wants_times_with_a_zone() -> None:
    with pytest.raises(ValueError, match="timezone"):
        RunFilter(since=datetime(2026, 5, 1))  # noqa: DTZ001 - that is what is refused


def which(change: Change, *ids: str, **selection: object) -> RunFilter | None:
    return Targets(ids, Selection(**selection), yes=False).which(change)  # pyright: ignore[reportArgumentType]


def test_what_can_be_changed_are_the_states_that_have_a_way_there() -> None:
    def able(target: RunState) -> set[str]:
        return {state.value for state, after in RUN_TRANSITIONS.items() if target in after}

    assert set(CANCEL.possible) == able(RunState.CANCELLED)
    assert set(RETRY.possible) == able(RunState.PENDING)


def test_a_filter_without_a_state_means_the_usual_ones() -> None:
    assert which(CANCEL, project="press") == RunFilter(project="press", states=(RunState.PENDING, RunState.RUNNING))
    # What somebody has cancelled is opened again only if it is asked for by name.
    assert which(RETRY, project="press") == RunFilter(project="press", states=(RunState.FAILED,))
    assert which(RETRY, states=("cancelled",)) == RunFilter(states=(RunState.CANCELLED,))


def test_ids_are_no_filter() -> None:
    assert which(RETRY, "one", "two") is None


@pytest.mark.parametrize(
    ("change", "ids", "selection", "message"),
    [
        (CANCEL, (), {}, "say which runs to cancel: their ids, or filters"),
        (RETRY, ("one",), {"project": "press"}, "both say which runs"),
        (
            RETRY,
            (),
            {"states": ("failed", "succeeded")},
            "only failed or cancelled runs can be retried: not succeeded",
        ),
        (CANCEL, (), {"states": ("failed",)}, "only pending or running runs can be cancelled: not failed"),
        (CANCEL, (), {"error": "agent_failed"}, "has ended: it cannot be cancelled"),
        (
            RETRY,
            (),
            {"error": "agent_failed", "states": ("cancelled",)},
            "no run that an error has failed is cancelled",
        ),
    ],
    ids=["nothing", "both", "succeeded", "ended", "failed", "contradiction"],
)
def test_what_cannot_be_meant_says_why(
    change: Change, ids: tuple[str, ...], selection: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        which(change, *ids, **selection)
