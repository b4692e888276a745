"""Runs of several plans in one transaction: the arms of an experiment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from orchestrator.store.creation import Arm, Created, Creation, Place, database_now, first_uses, is_without_definition
from orchestrator.store.database import Database, Session
from orchestrator.store.runs import Runs


def create_arms(database: Database, runs: Runs, arms: Sequence[Arm], *, project: str) -> list[Created]:
    """Insert the runs of all arms or none, as `Runs.create` does; gives what came of each arm.

    An idempotency key stands for the workflow that was asked for, whatever an arm makes of it.
    """
    first = arms[0]
    if len(arms) == 1 and first.plan is first.asked:
        return [runs.create(first.plan, first.runs, project=project)]

    def insert(_: Place) -> list[Created]:
        asked_id = runs.place(first.asked, project).workflow_id
        places = [replace(runs.place(arm.plan, project), asked_id=asked_id) for arm in arms]

        def work(session: Session) -> list[Created]:
            used = first_uses(session, places[0], [run for arm in arms for run in arm.runs])
            now = database_now(session)
            both = zip(arms, places, strict=True)
            return [Creation(arm.plan, place, now).insert(session, arm.runs, used) for arm, place in both]

        try:
            return database.transact(work)
        except Exception as error:
            if is_without_definition(error):
                runs.shed()  # whichever it is that retention has deleted: all are looked up again
            raise

    return runs.placed(first.plan, project, insert)
