"""An agent that kills its process each time, among many that do not."""

from __future__ import annotations

from pathlib import Path

from fleet import fleet

INNOCENT = 200


def test_an_agent_that_kills_its_worker_is_quarantined_and_none_of_the_two_hundred_beside_it_is(tmp_path: Path) -> None:
    with fleet(tmp_path, concurrency=INNOCENT + 5, lease_ttl=3, heartbeat=1) as installation:
        go, die = tmp_path / "go", tmp_path / "die"
        victim = installation.start_worker()
        installation.orchestrator.submit_many("a=patient", [{"until": str(go)}] * INNOCENT)
        poisoned = installation.orchestrator.submit("a=poison", {"until": str(die)})
        installation.until(lambda: len(installation.executions("begin")) == INNOCENT + 1, "all run in one process")
        survivor = installation.start_worker()
        die.touch()
        installation.until(lambda: victim.poll() is not None, "the worker has died")
        go.touch()
        installation.finish()
        assert survivor.poll() is None
        failed = poisoned.wait(10)
        assert (failed.state, failed.error and failed.error.code) == ("failed", "agent_crashed")
        assert installation.executions("begin")[failed.id, "a"] == 1 + 3
        innocent = installation.query(
            "SELECT state, sum(crashes), sum(failures), count(*) FROM agent_run WHERE agent = 'patient' GROUP BY state"
        )
        assert innocent == [("succeeded", 0, 0, INNOCENT)]
        assert installation.query("SELECT state, crashes, suspect FROM agent_run WHERE agent = 'poison'") == [
            ("failed", 3, False)
        ]
        [dead] = installation.orchestrator.dead()
        assert (dead.run_id, dead.quarantined, dead.crashes) == (failed.id, True, 3)


def test_a_suspect_whose_worker_is_killed_is_charged_nothing_and_its_process_ends_too(tmp_path: Path) -> None:
    with fleet(tmp_path, lease_ttl=3, heartbeat=1) as installation:
        go = tmp_path / "go"
        run = installation.orchestrator.submit("a=patient", {"until": str(go)})
        installation.query("UPDATE agent_run SET suspect = true")
        victim = installation.start_worker()
        installation.until(lambda: installation.executions("begin"), "it runs alone")
        [[_, _, _, child]] = installation.ledger()
        assert int(child) != victim.pid
        installation.kill(victim)
        installation.until(lambda: not Path(f"/proc/{child}").exists(), "its process has ended")
        installation.start_worker()
        go.touch()
        assert run.wait(60).state == "succeeded"
        assert installation.query("SELECT epoch, crashes, failures, suspect FROM agent_run") == [(2, 0, 0, False)]
