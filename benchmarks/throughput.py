"""Runs per second: durable chains and chords against raw Celery, and what else keeps state in a database."""

from __future__ import annotations

from collections.abc import Sequence

from harness import BROKERS, OURS, Bench, Measured, Row, throughput
from others import VARIANTS, Other
from ours import Fleet
from raw import SETTINGS, Raw, RawOnDatabase, free_redis_database

SHAPES = {"chain": "chain of 3", "chord": "chord of 3 + 1"}
TARGETS = {("chain", "rabbitmq"): 1.0, ("chain", "redis"): 1.0, ("chord", "rabbitmq"): 1.2, ("chord", "redis"): 1.0}
RUNS = {"chain": 400, "chord": 250}
OTHERS_TARGET = 2.0

#: With the database backend a chord is found ready by polling, so its runs take long whatever their number.
DATABASE_RUNS = {"chain": 60, "chord": 25}
OTHERS_RUNS = {"chain": 80, "chord": 60}


def chain(bench: Bench) -> list[Row]:
    return [_against_celery(bench, "chain", broker) for broker in BROKERS]


def chord(bench: Bench) -> list[Row]:
    return [_against_celery(bench, "chord", broker) for broker in BROKERS]


def others(bench: Bench) -> list[Row]:
    return [row for shape in SHAPES for row in _against_others(bench, shape)]


def _against_celery(bench: Bench, shape: str, broker: str) -> Row:
    with bench.alone() as alone:
        database = free_redis_database(alone)
        rivals = [Raw(alone, label, broker, database) for label in SETTINGS]
        ours = Fleet(alone, broker, concurrency=alone.concurrency)
        for side in (ours, *rivals):
            side.start_worker()
        sides = (ours, *rivals)
        rounds = throughput(alone, sides, shape, {side.name: alone.count(RUNS[shape]) for side in sides})
    return Row(
        f"{shape}-{broker}",
        f"durable {SHAPES[shape]} vs raw Celery with Redis results, {broker}",
        rounds,
        "runs/s",
        TARGETS[shape, broker],
        ratio=True,
    )


def _against_others(bench: Bench, shape: str) -> list[Row]:
    with bench.alone() as alone:
        database = free_redis_database(alone)
        schema = alone.schema(f"raw{alone.token()}")
        celery = [RawOnDatabase(alone, label, database, schema) for label in ("Celery, default", "Celery, tuned")]
        libraries = [Other(alone, label) for label in VARIANTS]
        ours = Fleet(alone, "rabbitmq", concurrency=alone.concurrency)
        for side in (ours, *celery):
            side.start_worker()
        counts = {side.name: alone.count(DATABASE_RUNS[shape]) for side in celery}
        counts |= {side.name: alone.count(OTHERS_RUNS[shape]) for side in libraries}
        counts[OURS] = alone.count(RUNS[shape])
        rounds = throughput(alone, (ours, *celery, *libraries), shape, counts)
    return [_row_of(shape, library, rounds) for library in ("Celery, database backend", "LangGraph", "DBOS")]


def _row_of(shape: str, library: str, rounds: Measured) -> Row:
    names: Sequence[str] = [OURS, *(name for name in rounds if name.startswith(library))]
    return Row(
        f"{shape}-{library.partition(',')[0].lower()}",
        f"durable {SHAPES[shape]} vs {library.replace('Celery,', 'raw Celery with its')}",
        {name: rounds[name] for name in names},
        "runs/s",
        OTHERS_TARGET,
        ratio=True,
    )
