"""The messages of a run as people read them: who has told whom what, as text and as a diagram of Mermaid's. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from orchestrator.contracts.mail import MailRecord, MailState

_BODY_CHARACTERS = 60
#: With more participants than these, lines between them are longer than a terminal.
_MOST_COLUMNS = 6


def as_text(records: Iterable[MailRecord]) -> str:
    """Give a sequence diagram of characters: a column for each participant, a line for each message."""
    listed = list(records)
    names = _participants(listed)
    if len(names) > _MOST_COLUMNS:
        return "\n".join(_line(record) for record in listed)
    width = max((len(name) for name in names), default=0) + 6
    column = {name: index * width for index, name in enumerate(names)}
    head = "".join(name.ljust(width) for name in names).rstrip()
    lines = [f"{_arrow(record, column, len(names) * width)}  {_told(record)}" for record in listed]
    return "\n".join([f"              {head}", *lines])


def as_mermaid(records: Iterable[MailRecord]) -> str:
    """Give a sequence diagram in Mermaid's words."""
    listed = list(records)
    names = {name: f"p{number}" for number, name in enumerate(_participants(listed))}
    lines = ["sequenceDiagram"]
    lines += [f"    participant {short} as {name}" for name, short in names.items()]
    for record in listed:
        arrow = "--x" if record.state is MailState.DEAD else "-->>" if record.answers is not None else "->>"
        lines.append(f"    {names[record.sender]}{arrow}{names[record.recipient]}: {_escaped(_told(record))}")
    return "\n".join(lines)


def _participants(records: Sequence[MailRecord]) -> list[str]:
    return list(dict.fromkeys(name for record in records for name in (record.sender, record.recipient)))


def _arrow(record: MailRecord, column: dict[str, int], width: int) -> str:
    begin, end = column[record.sender], column[record.recipient]
    cells = [" "] * width
    for place in column.values():
        cells[place] = "│"
    first, last = sorted((begin, end))
    for place in range(first + 1, last):
        cells[place] = "╌" if record.answers is not None else "─"
    head = "✗" if record.state is MailState.DEAD else "▶" if end > begin else "◀"
    if end != begin:
        cells[end - 1 if end > begin else end + 1] = head
    return f"{record.sent_at:%H:%M:%S.%f}"[:12] + "  " + "".join(cells).rstrip()


def _line(record: MailRecord) -> str:
    return f"{record.sent_at:%H:%M:%S.%f}"[:12] + f"  {record.sender} → {record.recipient}  {_told(record)}"


def _told(record: MailRecord) -> str:
    body = json.dumps(record.body, ensure_ascii=False, default=str)
    shown = body if len(body) <= _BODY_CHARACTERS else f"{body[: _BODY_CHARACTERS - 1]}…"
    state = {
        MailState.WAITING: " (waiting)",
        MailState.DEAD: f" (dead: {record.reason})",
        MailState.TAKEN: "",
    }[record.state]
    return f"{record.type} {shown}{state}"


def _escaped(text: str) -> str:
    return "".join({"#": "#35;", ";": "#59;", "\n": " "}.get(sign, sign) for sign in text)
