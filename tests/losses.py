"""Workers that have died, and are known to be dead at once: leases can be long, and who is only slow keeps what it holds."""

from __future__ import annotations

import subprocess

from fleet import Fleet


def killed(installation: Fleet, worker: subprocess.Popen[bytes]) -> None:
    """Kill a worker and have the fleet know of it."""
    installation.kill(worker)
    bury(installation, worker)


def bury(installation: Fleet, worker: subprocess.Popen[bytes]) -> None:
    """Have the lease of a worker that has died be over: what it held is held by nobody."""
    worker.wait(60)
    installation.query(
        "UPDATE agent_run SET claimed_at = now() - interval '1 day' "
        "WHERE state = 'running' AND worker_id IN (SELECT id FROM worker WHERE pid = %s)",
        worker.pid,
    )
    for row in installation.live_workers():
        if row.pid == worker.pid:
            installation.kernel.store.fleet.leave(row.id)
    # It may have died while it swept.
    installation.query("UPDATE sweep SET held_until = NULL")
