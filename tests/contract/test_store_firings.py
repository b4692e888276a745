"""What schedules have submitted, by the keys of the runs."""

from __future__ import annotations

from steps import plan_of, task

from orchestrator.clock import ids
from orchestrator.store.creation import NewRun
from orchestrator.store.firings import Firings
from orchestrator.store.store import Store


def submit(store: Store, *keys: str, project: str = "press") -> list[str]:
    runs = [NewRun(ids.new(), "{}", key) for key in keys]
    return list(store.runs.create(plan_of(task("reader")), runs, project=project).ids)


def test_the_last_firing_of_a_schedule_is_found_by_its_key(store: Store) -> None:
    firings = Firings(store.database)
    prefix, until = "schedule/nightly/", "schedule/nightly/2027-06-01T00:00:00Z"
    assert firings.last("press", prefix, until) is None  # no such project yet
    submit(
        store,
        "schedule/nightly/2026-11-21T02:00:00Z",
        "schedule/nightly/2027-01-02T02:00:00Z",
        "schedule/nightly/2026-12-31T02:00:00Z",
    )
    # Names beside each other, other projects, and what is beyond the end, in whatever order the database sorts text.
    submit(
        store,
        "schedule/nightly-2/2027-05-01T02:00:00Z",
        "schedule/night/ly/2027-05-02T00:00:00Z",
        "schedule/nightly_/2027-05-03T02:00:00Z",
    )
    submit(store, "schedule/nightly/2027-07-01T02:00:00Z", "doc-42")
    submit(store, "schedule/nightly/2027-04-01T02:00:00Z", project="other")
    assert firings.last("press", prefix, until) == "schedule/nightly/2027-01-02T02:00:00Z"
    assert firings.last("other", prefix, until) == "schedule/nightly/2027-04-01T02:00:00Z"
    assert firings.last("press", "schedule/weekly/", "schedule/weekly/2027") is None


def test_the_run_of_one_firing(store: Store) -> None:
    firings = Firings(store.database)
    (run_id,) = submit(store, "schedule/nightly/2026-11-21T02:00:00Z")
    assert firings.run_of("press", "schedule/nightly/2026-11-21T02:00:00Z") == run_id
    assert firings.run_of("press", "schedule/nightly/2026-11-22T02:00:00Z") is None
    assert firings.run_of("other", "schedule/nightly/2026-11-21T02:00:00Z") is None
