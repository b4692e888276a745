"""The plans that Postgres makes of named statements."""

from __future__ import annotations

import re

from orchestrator.store.database import Database


def plan_text(postgres: Database, name: str, *, without: tuple[str, ...] = ("seqscan", "bitmapscan")) -> str:
    """Give the plan that a connection makes once and keeps, whatever the parameters are."""
    names: list[str] = []

    def numbered(found: re.Match[str]) -> str:
        if found[1] not in names:
            names.append(found[1])
        return f"${names.index(found[1]) + 1}"

    sql = re.sub(r"%\((\w+)\)s", numbered, postgres.statement(name)).replace("%%", "%")
    with postgres.connect() as connection:
        for setting in ("plan_cache_mode = force_generic_plan", *(f"enable_{kind} = off" for kind in without)):
            connection.exec_driver_sql(f"SET LOCAL {setting}")
        connection.exec_driver_sql(f"PREPARE planned AS {sql}")
        try:
            nothing = ", ".join(["NULL"] * len(names))
            rows = connection.exec_driver_sql(f"EXPLAIN EXECUTE planned({nothing})").scalars().all()
        finally:
            connection.exec_driver_sql("DEALLOCATE planned")
    return "\n".join(rows)
