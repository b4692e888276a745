"""A raw Celery worker in the foreground: `raw_worker.py CONFIG`, the config as JSON."""

from __future__ import annotations

import json
import sys

from raw_app import RawConfig, make_raw_app

from worker.pool import TaskPool


def main() -> int:
    config = RawConfig(**json.loads(sys.argv[1]))
    app = make_raw_app(config)
    worker = app.Worker(
        hostname=f"{config.name}@raw",
        pool_cls=TaskPool if config.pool == "ours" else "threads",
        concurrency=config.concurrency,
        loglevel="WARNING",
        without_gossip=config.tuned,
        without_mingle=config.tuned,
        without_heartbeat=config.tuned,
        quiet=True,
    )
    worker.start()
    return int(worker.exitcode or 0)


if __name__ == "__main__":
    sys.exit(main())
