"""What is deleted, and how long projects keep what is theirs. Bounded batches that wait for nobody and that nobody waits for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from orchestrator.contracts.policy import Retention
from orchestrator.contracts.run import RunState
from orchestrator.store.database import Database, Session, times
from orchestrator.store.defaults import DEFAULT_TENANT_ID

#: Runs in these states have ended, and can be deleted.
ENDED = tuple(state for state in RunState if state.final)
#: Before every id.
FIRST_ID = "00000000-0000-0000-0000-000000000000"

#: Definitions that are not much older may be those of runs that are about to be made.
_NEW_SECONDS = 3600.0
_DAY_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class ProjectRow:
    """A project, and what it says of how long its runs are kept."""

    id: str
    name: str
    created_at: datetime | None
    retention: Retention


@dataclass(frozen=True, slots=True)
class Recorded:
    """An agent run that has recorded effects; `age_seconds` is the time since its run's end, None while that is open."""

    id: str
    run_id: str
    project_id: str
    age_seconds: float | None


class Deletions:
    """Every method is one transaction; any number of processes may call them at once, and nothing open is ever deleted.

    What goes with a run goes by the foreign keys of its rows.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    # Whose turn it is -------------------------------------------------------------------------------------------------

    def take_turn(self, interval_seconds: float) -> bool:
        """Tell whether this process deletes now: one does in each interval, and another when it dies."""
        taken = self._database.execute(lambda session: session.run("retention_turn", interval=float(interval_seconds)))
        return taken == 1

    def keep_turn(self) -> None:
        """Keep the turn for another interval."""
        self._database.execute(lambda session: session.run("retention_goes_on"))

    # Projects ---------------------------------------------------------------------------------------------------------

    def projects(self) -> list[ProjectRow]:
        """Give every project, by name."""
        rows = self._database.execute(lambda session: session.rows("projects", tenant_id=DEFAULT_TENANT_ID))
        return [project_row(row) for row in rows]

    def set_retention(self, project: str, retention: Retention) -> bool:
        """Store how long a project keeps its runs; false when there is no such project."""
        text = None if retention == Retention() else retention.model_dump_json(exclude_none=True)
        stored = {"tenant_id": DEFAULT_TENANT_ID, "name": project, "retention": text}
        return self._database.execute(lambda session: session.run("keep_project", **stored)) == 1

    # Runs -------------------------------------------------------------------------------------------------------------

    def delete_expired(self, project_id: str, state: RunState, *, age_seconds: float, most: int) -> int:
        """Delete up to `most` runs that ended that long ago, the oldest first; gives how many they were."""
        return self._delete(
            "delete_expired", project_id=project_id, state=state.value, age=float(age_seconds), most=most
        )

    def oldest_kept(self, project_id: str, keep: int) -> tuple[Any, str] | None:
        """Give what tells the last one of the `keep` newest ended runs, None where there are not so many."""
        row = self._database.execute(lambda session: session.row("oldest_kept", project_id=project_id, keep=keep))
        return None if row is None else (row[0], str(row[1]))

    def delete_behind(self, project_id: str, state: RunState, last: tuple[Any, str], *, most: int) -> int:
        """Delete up to `most` ended runs that are older than the `last` one to keep; gives how many they were."""
        at, identity = last
        return self._delete("delete_behind", project_id=project_id, state=state.value, at=at, last=identity, most=most)

    def delete_ended(self, run_ids: Collection[str], *, age_seconds: float = 0.0) -> int:
        """Delete those of some runs that ended that long ago; gives how many they were."""
        return self._delete("delete_ended", ids=list(run_ids), age=float(age_seconds))

    # What belongs to runs ---------------------------------------------------------------------------------------------

    def recorded_after(self, agent_run_id: str, *, most: int) -> list[Recorded]:
        """Give the agent runs with recorded effects behind an id, in the order in which their runs were made."""
        rows = self._database.execute(lambda session: session.rows("recorded_after", after=agent_run_id, most=most))
        return [Recorded(row[0], row[1], row[2], _seconds(row[3], row[4])) for row in rows]

    def delete_journals(self, run_ids: Collection[str], *, age_seconds: float = 0.0) -> int:
        """Delete what those of some runs that ended that long ago have recorded, shared and shown; gives how many."""

        def work(session: Session) -> int:
            ended = [row[0] for row in session.rows("hold_ended", ids=list(run_ids), age=float(age_seconds))]
            if ended:
                session.run("delete_journals", ids=ended)
                session.run("delete_content", ids=ended)
                session.run("delete_pieces", ids=ended)
                # Long text of theirs has gone with that of the journals.
                for statement in ("delete_shared_versions", "delete_shared_keys", "delete_shared"):
                    session.run(statement, ids=ended)
            return len(ended)

        return self._database.transact(work)

    def delete_bills(self, *, age_seconds: float, most: int) -> int:
        """Delete up to `most` lines of the ledger that are that old, the oldest first; gives how many they were."""
        return self._delete("delete_bills", age=float(age_seconds), most=most)

    def delete_stale_answers(self, *, most: int) -> int:
        """Delete up to `most` answers of models whose time is over, the oldest first; gives how many they were."""
        return self._delete("delete_stale_answers", most=most)

    def delete_webhooks(self, *, age_seconds: float, most: int) -> int:
        """Delete up to `most` deliveries of webhooks that ended so long ago, and receipts; gives how many at most of a kind."""
        gone = self._delete("webhook_forget", age=float(age_seconds), most=most)
        return max(gone, self._delete("webhook_forget_receipts", age=float(age_seconds), most=most))

    # What belongs to nobody -------------------------------------------------------------------------------------------

    def delete_unused_definitions(
        self, after: str, *, most: int, older_than_seconds: float = _NEW_SECONDS
    ) -> tuple[int, str | None]:
        """Delete those of the next definitions behind an id that no run has; gives how many, and the last id if more follow.

        A run that comes meanwhile either keeps its definition or is made with a new one (`Runs.create`).
        """
        looked = self._database.execute(
            lambda session: session.rows("definitions_after", after=after, most=most, age=float(older_than_seconds))
        )
        unused = [row[0] for row in looked if not row[1]]
        count = self._database.transact(lambda session: _delete_definitions(session, unused)) if unused else 0
        return count, looked[-1][0] if len(looked) == most else None

    def delete_silent_workers(self, *, silent_seconds: float = _DAY_SECONDS) -> int:
        """Delete the rows of worker processes that died long ago and hold nothing; gives how many they were."""
        return self._delete("delete_silent_workers", age=float(silent_seconds))

    def _delete(self, statement: str, **parameters: Any) -> int:
        return self._database.transact(lambda session: session.run(statement, **parameters))


def project_row(row: Sequence[Any]) -> ProjectRow:
    """Give a row of `projects` as what it says."""
    return ProjectRow(row[0], row[1], times(row[2]), Retention.model_validate_json(row[3] or "{}"))


def _delete_definitions(session: Session, unused: Sequence[str]) -> int:
    # Two statements: the second one sees what was committed before the first one held the definitions.
    held = [row[0] for row in session.rows("hold_definitions", ids=list(unused))]
    return session.run("delete_definitions", ids=held) if held else 0


def _seconds(since: Any, now: Any) -> float | None:
    before, after = times(since), times(now)
    return None if before is None or after is None else (after - before).total_seconds()
