"""SQL that is tuned by hand: text in `sql/*.sql`, each statement under a line `-- name: purpose`, compiled once.

SQLAlchemy expressions built for each call cost more than the query. In the text `:name` is a parameter, `@name` a table of
ours, `now()` the database's time, `ago(:s)` and `later(:s)` times `s` seconds from it, `= ANY(:ids::uuid[])` holds for what
is in a list; `/*pg ... */` holds what only Postgres gets (row locks, casts), `@@name` the text of another statement.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from importlib import resources


@cache
def sources() -> dict[str, str]:
    """Every `-- name: purpose` block of `sql/*.sql`, by name."""
    found: dict[str, str] = {}
    for file in (resources.files("orchestrator.store") / "sql").iterdir():
        blocks = re.split(r"^-- ([a-z_]+):", file.read_text(), flags=re.MULTILINE)
        for name, body in zip(blocks[1::2], blocks[2::2], strict=True):
            if name in found:
                raise ValueError(f"{file.name}: the statement {name} is defined twice")
            found[name] = body.partition("\n")[2]
    return found


def translate(text: str, dialect: str, qualify: Callable[[str], str]) -> str:
    """Give the SQL of one database: its times, its parameters, its names of tables."""
    text = re.sub(r"@@([a-z_]+)", lambda found: sources()[found[1]], text)
    text = re.sub(r"--[^\n]*\n", "\n", text)
    text = re.sub(r"@([a-z_]+)", lambda found: qualify(found[1]), text)
    argument = r"\(((?:[^()]|\([^()]*\))+)\)"
    if dialect == "postgresql":
        text = re.sub(r"/\*pg(.*?)\*/", r"\1", text, flags=re.DOTALL)
        text = re.sub(rf"\bago{argument}", r"(now() - make_interval(secs => \1))", text)
        text = re.sub(rf"\blater{argument}", r"(now() + make_interval(secs => \1))", text)
        text = text.replace("%", "%%")
        text = re.sub(r"(?<![:\w]):([a-z_]+)", r"%(\1)s", text)
    else:
        text = re.sub(r"/\*pg.*?\*/", "", text, flags=re.DOTALL)
        # SQLite's clock has milliseconds; three zeros keep the width of the times that Python writes.
        text = re.sub(rf"\bago{argument}", r"strftime('%Y-%m-%d %H:%M:%f000', 'now', -(\1) || ' seconds')", text)
        text = re.sub(rf"\blater{argument}", r"strftime('%Y-%m-%d %H:%M:%f000', 'now', (\1) || ' seconds')", text)
        # Lists travel as JSON text.
        text = re.sub(r"= ANY\(:([a-z_]+)::\w+\[\]\)", r"IN (SELECT value FROM json_each(:\1))", text)
        text = text.replace("now()", "strftime('%Y-%m-%d %H:%M:%f000', 'now')")
    return " ".join(text.split())
