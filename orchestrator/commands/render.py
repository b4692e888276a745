"""What a terminal shows, as text: no effects."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from orchestrator.errors import EffectUncertain, NondeterminismError

if TYPE_CHECKING:
    from orchestrator.contracts.agent import AgentCard
    from orchestrator.contracts.event import RunEvent
    from orchestrator.contracts.permissions import Permissions
    from orchestrator.contracts.run import AgentRunResult, ErrorInfo, RunResult, RunSummary

#: Marks a column whose cells are numbers.
_RIGHT = ">"
#: Of what one agent run has called for.
_MOST_CALLED = 20
#: What an agent run waits for may end in the command that lets it go on, with an id in it.
_MOST_OF_A_WAIT = 300


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Give rows under their headers, columns aligned; a header that begins with `>` aligns its column to the right."""
    titles = [header.removeprefix(_RIGHT) for header in headers]
    cells = [titles, *([f"{_indent_of(cell)}{one_line(cell)}" for cell in row] for row in rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(titles))]

    def line(row: Sequence[str]) -> str:
        return "  ".join(
            cell.rjust(width) if header.startswith(_RIGHT) else cell.ljust(width)
            for header, cell, width in zip(headers, row, widths, strict=True)
        ).rstrip()

    return "\n".join(line(row) for row in cells)


def _indent_of(cell: str) -> str:
    return " " * (len(cell) - len(cell.lstrip(" ")))


def duration(seconds: float | None) -> str:
    """Give a duration as people write it, `-` for none."""
    if seconds is None:
        return "-"
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def between(start: datetime | None, end: datetime | None) -> float | None:
    """Give the seconds between two times, None if one of them is not known."""
    return None if start is None or end is None else max(0.0, (end - start).total_seconds())


def moment(at: datetime) -> str:
    """Give a time in UTC to the second."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def usd(amount: str) -> str:
    """Give an amount in decimal dollars as people read it."""
    from orchestrator.contracts.money import show_usd, to_nanousd

    return show_usd(to_nanousd(Decimal(amount)))


def printable(text: str) -> str:
    """Give text without what a terminal would obey; line breaks and tabs stay."""
    return "".join(character for character in text if character.isprintable() or character in "\n\t")


def one_line(text: str, most: int = 200) -> str:
    """Give text on one line of bounded length."""
    return shorten(printable(text), most, placeholder=" ...")


def output_text(output: Any) -> str:
    """Give a run's output for people: its `text` if it has one, else indented JSON."""
    match output:
        case str():
            return output
        case {"text": str(text)}:
            return text
        case _:
            return as_json(output)


def as_json(value: Any) -> str:
    """Give JSON values as indented text."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def model_of(part: AgentRunResult) -> str | None:
    """Give the model that an output came from: the one that answered, else the one that the output itself names."""
    if part.model is not None or not isinstance(part.output, dict):
        return part.model
    named: Any = part.output.get("model")  # pyright: ignore[reportUnknownMemberType]
    return named if isinstance(named, str) else None


def agent_runs_table(result: RunResult, *, workers: bool = False) -> str:
    """Give the agent runs with their timings, and where they ran if that is wanted; `offline` is called what it is."""
    headers = ("task", "agent", "state", "model", ">tries", ">waited", ">took", *(("worker",) if workers else ()))
    rows: list[tuple[str, ...]] = []
    for part, depth in _as_tree(result.agent_runs):
        if isinstance(part, str):
            rows.append((f"{'  ' * depth}{part}", *("" for _ in headers[1:])))
        else:
            rows.append((*_agent_run_row(part, depth), *((part.worker or "-",) if workers else ())))
    return table(headers, rows)


def _as_tree(parts: Sequence[AgentRunResult]) -> Iterator[tuple[AgentRunResult | str, int]]:
    """Give agent runs with how deep they stand, what each has called for behind it; of many the first ones and their number."""
    called: defaultdict[str | None, list[AgentRunResult]] = defaultdict(list)
    for part in parts:
        called[part.called_by].append(part)

    def below(task: str | None, depth: int) -> Iterator[tuple[AgentRunResult | str, int]]:
        listed = called.get(task, [])
        shown = listed if task is None or len(listed) <= _MOST_CALLED else _most_telling(listed)
        for part in shown:
            yield part, depth
            yield from below(part.task, depth + 1)
        if len(shown) < len(listed):
            told = {part.id for part in shown}
            left = Counter(str(part.state) for part in listed if part.id not in told)
            yield f"and {', '.join(f'{count:,} {state}' for state, count in sorted(left.items()))}", depth

    return below(None, 0)


def _most_telling(parts: Sequence[AgentRunResult]) -> list[AgentRunResult]:
    """Give the first of many, those before all that have failed or are under way."""
    telling = [part for part in parts if part.state in {"failed", "running", "suspended"}][:_MOST_CALLED]
    wanted = {part.id for part in telling} | {part.id for part in parts[: _MOST_CALLED - len(telling)]}
    return [part for part in parts if part.id in wanted]


def _agent_run_row(part: AgentRunResult, depth: int) -> tuple[str, ...]:
    model = model_of(part)
    return (
        f"{'  ' * depth}{named(part.task, part.step)}",
        part.agent,
        f"{part.state}, superseded" if part.superseded else str(part.state),
        "offline (no language model)" if model == "offline" else model or "-",
        str(part.failures + part.crashes + (part.state in {"running", "succeeded"})),
        duration(between(part.queued_at, part.started_at)),
        duration(between(part.started_at, part.finished_at)),
    )


def named(task: str, step: str | None) -> str:
    """Name an agent run for people: its task, and what that is to who has called for it."""
    return task if step is None else f"{task} ({step})"


def waits_of(result: RunResult) -> list[str]:
    """Give a line for each task that is suspended."""
    return [
        f"{named(part.task, part.step)} {one_line(part.waiting_for, _MOST_OF_A_WAIT)}"
        for part in result.agent_runs
        if part.waiting_for
    ]


def errors_of(result: RunResult) -> list[str]:
    """Give a line for each task that failed, and one for the run where no task is to blame."""
    failed = [part for part in result.agent_runs if part.error]
    left_out = {part.id for part in [part for part in failed if part.called_by][_MOST_CALLED:]}
    shown = (part for part in failed if part.id not in left_out)
    lines = [f"{_error_line(part.error, part.task)}{_at(part.error)}" for part in shown if part.error]
    lines += [f"and {len(left_out):,} more that were called have failed: --json has all of them"] if left_out else []
    if result.error and not any(part.error == result.error for part in result.agent_runs):
        line = _error_line(result.error)
        lines = lines if line in lines else [*lines, line]
    return [printable(line) for line in lines]


def _error_line(error: ErrorInfo, task: str | None = None) -> str:
    """Give an error with the task that raised it and its code, by which runs can be found again."""
    place = task or error.task
    return f"{place}: {error.code}: {error.message}" if place else f"{error.code}: {error.message}"


def _at(error: ErrorInfo) -> str:
    """Give the line of the agent's that an exception came from."""
    at = (error.details or {}).get("at")
    return f" ({at})" if at else ""


def headline(result: RunResult) -> str:
    """Give a run's name, state and length in one line."""
    took = between(result.started_at or result.created_at, result.finished_at)
    length = f" in {duration(took)}" if took is not None else ""
    return f"run {result.id} ({one_line(result.workflow)}) {result.state}{length}"


def run_page(result: RunResult, *, workers: bool = False) -> str:
    """Give everything about a run but its input and outputs; `workers` says that there are some to be told apart."""
    usage = result.usage
    facts = [
        ("run", result.id),
        ("workflow", result.workflow),
        ("project", result.project),
        ("state", str(result.state)),
        ("created", moment(result.created_at)),
        ("took", duration(between(result.started_at, result.finished_at))),
    ]
    if result.deadline_at is not None:
        facts.append(("deadline", moment(result.deadline_at)))
    if result.forked_from is not None:
        facts.append(("fork of", result.forked_from))
        facts.append(("copied", ", ".join(part.task for part in result.agent_runs if part.copied) or "nothing"))
    if usage.model_calls:
        tokens = f"{usage.input_tokens:,} tokens in, {usage.output_tokens:,} out"
        facts.append(("models", f"{usage.model_calls:,} call{'s' if usage.model_calls != 1 else ''}, {tokens}"))
        unpriced = f", {usage.unpriced_calls:,} calls without a price" if usage.unpriced_calls else ""
        facts.append(("cost", f"{usd(usage.usd)}{unpriced}"))
    if result.user is not None:
        facts.append(("user", result.user))
    if result.variant is not None:
        facts.append(("variant", result.variant))
    parts = [
        "\n".join(f"{name:<10}{one_line(value)}" for name, value in facts),
        agent_runs_table(result, workers=workers),
    ]
    parts += ["\n".join(waits_of(result))] if waits_of(result) else []
    parts += ["\n".join(f"warning: {warning}" for warning in result.warnings)] if result.warnings else []
    parts += ["\n".join(errors_of(result))] if errors_of(result) else []
    return "\n\n".join(parts)


def runs_table(rows: Sequence[RunSummary]) -> str:
    """Give runs as lines of a table."""
    headers = ("run", "created", "project", "workflow", "state", ">took", "error")
    return table(
        headers,
        [
            (
                row.id,
                moment(row.created_at),
                row.project,
                one_line(row.workflow, 40),
                str(row.state),
                duration(between(row.started_at, row.finished_at)),
                "" if row.error is None else one_line(_error_line(row.error), 70),
            )
            for row in rows
        ],
    )


def agent_page(card: AgentCard, workers: int, live: Sequence[tuple[str, str]] = ()) -> str:
    """Give everything about an agent, with what a fleet knows of it now."""
    facts = [
        ("agent", card.name),
        ("does", card.description or "-"),
        ("can", ", ".join(card.capabilities) or "-"),
        ("model", card.model or "the installation's default"),
        ("tools", ", ".join(card.tools) or "-"),
        ("guards", ", ".join(card.guards) or "-"),
        ("may", _permitted(card.permissions)),
        ("limits", _limited(card)),
        ("workers", str(workers)),
        *live,
        ("version", card.digest),
        ("from", card.origin or "-"),
    ]
    parts = ["\n".join(f"{name:<10}{one_line(value, 400)}" for name, value in facts)]
    for name, schema in (("takes", card.input_schema), ("gives", card.output_schema)):
        parts.append(f"{name}\n{'any object' if schema is None else as_json(schema)}")
    return "\n\n".join(parts)


def _limited(card: AgentCard) -> str:
    """Say what one agent run may use: `model_calls 8; usd 0.10; hard timeout 300 s`."""
    said = card.limits.model_dump(mode="json", exclude_none=True)
    timeouts = card.timeouts.model_dump(mode="json", exclude_none=True)
    parts = [f"{name} {value}" for name, value in said.items()]
    return "; ".join([*parts, *(f"{name} timeout {value:g} s" for name, value in timeouts.items())]) or "-"


def _permitted(permissions: Permissions) -> str:
    """Say what an agent may touch: `network example.com; env CRM_KEY`."""
    said = permissions.model_dump(mode="json", exclude_defaults=True)
    parts = (f"{name} {', '.join(each) if isinstance(each, list) else each}" for name, each in said.items())  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return "; ".join(parts) or "nothing beside its model"


def event_line(event: RunEvent) -> str | None:
    """Give an event of an agent run as a line, None for one that nobody waits for."""
    if event.kind == "message":
        return message_text(event)
    if event.task is None or event.kind == "delta":
        return None
    if event.kind == "progress":
        return f"{event.task}: {progress_text(event)}"
    reason = f": {one_line(event.error.message)}" if event.error is not None else ""
    if event.state in {"blocked", "queued"} and not reason:
        return None
    if event.state == "suspended" and event.message:
        return f"{named(event.task, event.step)} {one_line(event.message, _MOST_OF_A_WAIT)}"
    task = named(event.task, event.step)
    return f"{task} {'waits for a retry' if event.state == 'queued' else event.state}{reason}"


def message_text(event: RunEvent) -> str:
    """Give a message between agents as a line, its body cut."""
    body = json.dumps(event.data["body"], ensure_ascii=False)
    return one_line(f"{event.message} {body}", _MOST_OF_A_WAIT)


def progress_text(event: RunEvent) -> str:
    """Give a progress line with its share of the whole."""
    share: Any = event.data.get("fraction") if isinstance(event.data, dict) else None  # pyright: ignore[reportUnknownMemberType]
    percent = f" ({share:.0%})" if isinstance(share, int | float) else ""
    return f"{one_line(event.message or '')}{percent}"


def next_steps(result: RunResult, flags: str) -> str:
    """Say what can be done now; `flags` are the options that lead to the same place."""
    steps = [(f"nightfleet runs show {result.id}{flags}", "this run again; with --json every output")]
    if result.state in {"failed", "cancelled"}:
        steps.insert(0, _once_more(result, flags))
    else:
        steps.append((f"nightfleet agents{flags}", "the agents that there are"))
    if any(model_of(part) == "offline" for part in result.agent_runs):
        steps.append(("export OPENAI_API_KEY=... or ANTHROPIC_API_KEY=...", "a language model instead of `offline`"))
    width = max(len(command) for command, _ in steps)
    return "\n".join(["Next:", *(f"  {command:<{width}}  {why}" for command, why in steps)])


def _once_more(result: RunResult, flags: str) -> tuple[str, str]:
    """Give the command with which work that came to nothing is tried again, and what it does."""
    retry = f"nightfleet runs retry {result.id}{flags}"
    codes = {part.error.code for part in result.agent_runs if part.error is not None}
    if result.ending is None and NondeterminismError.code in codes:
        return f"{retry} --restart", "once more, with nothing of what the failed tasks have recorded"
    if result.ending is None and EffectUncertain.code in codes:
        return f"{retry} --repeat-uncertain", "once more; what may have happened happens (again)"
    if result.ending is None:
        return retry, "once more, from what failed"
    if any(part.undoes is not None and part.state == "failed" for part in result.agent_runs):
        return retry, "the compensations once more that failed"
    first = result.agent_runs[0].task
    return f"nightfleet runs fork {result.id} --from {first}{flags}", "a new run of it, since this one is undone"


def problem_line(origin: str, message: str) -> str:
    """Give a plugin that could not be loaded as a line."""
    return f"not loaded: {printable(origin)}: {printable(message)}"
