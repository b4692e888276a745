"""The page of `doctor`: facts first, then what they mean, and at its end what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from orchestrator.commands import render

if TYPE_CHECKING:
    from orchestrator.contracts.diagnosis import Diagnosis, Finding, QueueFact, Service, Work

#: Longer lists say how many more there are; `--json` has them all.
_MOST_ROWS = 20
_MOST_TABLES = 5
_SMALL_TABLE_BYTES = 1_000_000
_MARKS = {"ok": "ok", "warning": "WARNING", "error": "ERROR"}


def page(diagnosis: Diagnosis) -> str:
    """Give a diagnosis as a page of text that ends in its verdict."""
    parts = [_head(diagnosis), _settings(diagnosis), _services(diagnosis), _agents(diagnosis)]
    parts += [] if diagnosis.work is None else _work(diagnosis.work)
    parts += [_findings(diagnosis.findings), _verdict(diagnosis)]
    return "\n\n".join(part for part in parts if part)


def _head(diagnosis: Diagnosis) -> str:
    where = "embedded: agents run in the process that starts them" if diagnosis.embedded else "a fleet"
    versions = ", ".join(f"{name} {version}" for name, version in diagnosis.versions.items())
    return f"nightfleet doctor, {render.moment(diagnosis.at)}, {where}\n{versions}"


def _settings(diagnosis: Diagnosis) -> str:
    given = [each for each in diagnosis.settings if each.source != "default"]
    rest = len(diagnosis.settings) - len(given)
    if not given:
        return f"settings: all {rest} at their defaults"
    rows = [(each.variable, each.value or "-", each.source) for each in given]
    return f"{render.table(('setting', 'value', 'from'), rows)}\n({rest} more at their defaults: --json shows them)"


def _services(diagnosis: Diagnosis) -> str:
    services = [("database", diagnosis.database), ("broker", diagnosis.broker)]
    if diagnosis.redis is not None:
        services.append(("redis", diagnosis.redis))
    return render.table(("service", "is", "connects", "answers", "at"), [_service(*each) for each in services])


def _service(name: str, service: Service) -> tuple[str, ...]:
    kind = service.kind if service.version is None else f"{service.kind} {service.version}"
    state = "cannot be reached" if service.error is not None else _milliseconds(service.connect_ms)
    return (name, kind, state, _milliseconds(service.answer_ms), service.address)


def _agents(diagnosis: Diagnosis) -> str:
    fleet = diagnosis.work is not None and not diagnosis.embedded
    rows = [
        (agent.name, *((str(agent.workers),) if fleet else ()), "no" if agent.digest is None else "yes", agent.origin)
        for agent in diagnosis.agents
    ]
    return _listed(("agent", *((">workers",) if fleet else ()), "here", "from"), rows)


def _work(work: Work) -> list[str]:
    workers = [
        (
            worker.name,
            str(worker.pid),
            str(worker.slots),
            str(worker.running),
            f"{worker.beat_age_seconds:.0f} s",
            "silent" if not worker.live else "stopping" if worker.draining else "live",
        )
        for worker in work.workers
    ]
    largest = [
        (table.name, "-" if table.rows is None else f"{table.rows:,}", _size(table.bytes))
        for table in work.tables[:_MOST_TABLES]
        if table.bytes >= _SMALL_TABLE_BYTES
    ]
    total = f"tables take {_size(sum(table.bytes for table in work.tables))}" if work.tables else ""
    counts = [
        ("open runs", work.open_runs),
        ("due, not published", work.unpublished),
        ("retries", work.waiting_for_retry),
    ]
    counts += [(f"failed today: {code}", count) for code, count in work.failures.items()]
    if work.retention is not None:
        counts += [("to be deleted now", work.retention.due), ("... within a day", work.retention.due_within_a_day)]
    return [
        _listed(("worker", ">pid", ">slots", ">running", ">beat", "state"), workers),
        _listed(("waits for", ">rows", ">oldest", ">workers", ">messages", ">consumers"), map(_queue, work.queues)),
        _listed(("runs", ">number"), [(name, f"{count:,}") for name, count in counts if count]),
        "\n".join(part for part in (_listed(("table", ">rows, about", ">size"), largest), total) if part),
    ]


def _queue(queue: QueueFact) -> tuple[str, ...]:
    return (
        queue.agent,
        f"{queue.waiting:,}{'+' if queue.bounded else ''}",
        render.duration(queue.oldest_seconds),
        str(queue.workers),
        "-" if queue.depth is None else f"{queue.depth:,}",
        "-" if queue.consumers is None else str(queue.consumers),
    )


def _listed(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Give a table of bounded length, nothing for no rows."""
    found = list(rows)
    if not found:
        return ""
    more = len(found) - _MOST_ROWS
    return render.table(headers, found[:_MOST_ROWS]) + (f"\n({more} more: --json shows them)" if more > 0 else "")


def _findings(findings: Sequence[Finding]) -> str:
    lines: list[str] = []
    width = max(map(len, _MARKS.values()))
    for finding in findings:
        lines.append(f"{_MARKS[finding.level]:<{width}}  {render.one_line(finding.message, 400)}")
        if finding.advice:
            lines.append(f"{'':<{width}}  -> {render.one_line(finding.advice, 400)}")
    return "\n".join(lines)


def _verdict(diagnosis: Diagnosis) -> str:
    """Say what to do first: an error, and of several the one that the others may come of."""
    bad = [finding for finding in diagnosis.findings if finding.level != "ok"]
    if not bad:
        return "All is well."
    errors = [finding for finding in bad if finding.level == "error"]
    counted = [(len(errors), "error"), (len(bad) - len(errors), "warning")]
    numbers = ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for count, word in counted if count)
    first = (errors or bad)[0]
    step = render.one_line(first.advice or first.message, 400)
    return f"{numbers}. {'Begin with' if len(bad) > 1 else 'Do this'}: {step}"


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"


def _size(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"
