"""Tools on real workers: limits of services that hold for all of them, and servers whose tools agents have there."""

from __future__ import annotations

import json
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from crm import Crm
from fleet import Fleet, broker_url, fleet

from orchestrator.clock import system_clock
from worker.emulator import Emulator, Setup
from worker.emulator.answers import Answer, ToolCall
from worker.emulator.script import Match, Rule

AGENTS = Path(__file__).parents[1] / "tool_agents"


def calls(*names: str, **arguments: Any) -> Answer:
    return Answer(tool_calls=tuple(ToolCall(name=name, arguments=arguments) for name in names))


@contextmanager
def installation(folder: Path, first: Answer, **settings: Any) -> Generator[tuple[Fleet, Emulator]]:
    """Give a fleet whose model calls tools first, and then answers."""
    rule = Rule(when=Match(turn=0), replies=(first,), repeat=True)
    chosen: dict[str, Any] = {"redis_url": broker_url("redis"), "lease_ttl": 600, **settings}
    with Emulator(setup=Setup(rules=(rule,))) as emulator, fleet(folder, agents_path=AGENTS, **chosen) as made:
        made.environment |= emulator.env
        yield made, emulator


def noted(made: Fleet) -> list[str]:
    return made.ledger_path.read_text().splitlines()


def test_a_limit_of_a_service_holds_for_all_workers_and_who_waits_lets_go_of_its_slot(tmp_path: Path) -> None:
    with installation(tmp_path, calls("locate", "locate", place="Oslo")) as (made, emulator):
        for _ in range(2):
            made.start_worker()
        # All of them come to the limit together, however slowly they have started.
        with emulator.held():
            for agent in ("mapper", "async_mapper", "alone_mapper"):
                made.orchestrator.submit_many(agent, [{"text": f"{agent} {number}"} for number in range(3)])
            made.until(lambda: emulator.most_in_flight == 9, "all of them ask their model")
            began = system_clock.monotonic()
        made.finish()
        lasted = system_clock.monotonic() - began
        assert made.query("SELECT state, count(*) FROM run GROUP BY 1") == [("succeeded", 9)]
        assert noted(made) == ["locate Oslo"] * 18, "each call has happened, and once"
        assert lasted >= (18 - 4) / 2, "two a second, and what is saved up for one"
        assert made.query("SELECT sum(failures), sum(crashes) FROM agent_run") == [(0, 0)]
        assert made.query("SELECT count(*) FROM agent_run WHERE epoch > 1")[0][0] > 0


def test_while_nobody_can_say_what_the_limits_are_a_tool_waits(tmp_path: Path) -> None:
    with installation(tmp_path, calls("locate", place="Oslo"), redis_url="redis://127.0.0.1:1/0") as (made, _):
        made.start_worker()
        run = made.orchestrator.submit("mapper", {"text": "Where?"})
        [part] = made.until(
            lambda: [each for each in run.snapshot().agent_runs if str(each.state) == "suspended"], "it waits"
        )
        assert "cannot be asked" in part.waiting_for
        assert noted(made) == []
        run.cancel()
        made.finish()


@pytest.mark.parametrize("agent", ["shopper", "alone_shopper"])
def test_agents_have_the_tools_of_servers_wherever_they_run(tmp_path: Path, agent: str) -> None:
    crm = Crm()
    crm.document = json.dumps({"openapi": "3.1.0", "paths": {"/echo": {"get": {"operationId": "echo"}}}}).encode()
    crm.wants = {"authorization": f"Bearer {(token := secrets.token_hex(16))}"}
    (tmp_path / "adapters.toml").write_text(
        f'[crm.openapi]\ndocument = "{crm.url}/openapi"\nbase_url = "{crm.url}/api"\n'
        'auth = {type = "bearer", env = "CRM_TOKEN"}\n'
    )
    first = Answer(
        tool_calls=(ToolCall(name="shop_buy", arguments={"of": "tea"}), ToolCall(name="crm_echo", arguments={}))
    )
    with installation(tmp_path, first, adapters_file=tmp_path / "adapters.toml") as (made, _):
        made.start_worker(CRM_TOKEN=token, LEDGER=str(made.ledger_path))
        run = made.orchestrator.submit(agent, {"text": "Go on."})
        bought, echoed = run.result(60)["told"]
        assert bought == "bought tea"
        assert json.loads(echoed)["headers"]["authorization"] == "Bearer ***"
        assert noted(made) == ["tea"]
        kept = str(made.query("SELECT * FROM journal") + made.query("SELECT * FROM content"))
        assert "Bearer ***" in kept
        assert "bought tea" in kept
        assert token not in kept
        assert token not in made.logs()
    crm.close()


def test_a_tool_that_may_have_been_called_is_called_again_when_somebody_says_so(tmp_path: Path) -> None:
    with installation(tmp_path, calls("locate", place="Oslo")) as (made, _):
        made.start_worker()
        run = made.orchestrator.submit("mapper", {"text": "Where?"})
        run.result(60)
        # What a worker leaves that dies between the call and its record.
        made.query("UPDATE journal SET state = 'begun', outcome = NULL WHERE kind = 'tool'")
        made.query("UPDATE run SET state = 'failed'")
        made.query("UPDATE agent_run SET state = 'failed'")
        run.retry()
        result = run.wait(60)
        assert result.error is not None
        assert result.error.code == "effect_uncertain"
        assert noted(made) == ["locate Oslo"]
        run.retry(repeat_uncertain=True)
        assert str(run.wait(60).state) == "succeeded"
        assert noted(made) == ["locate Oslo"] * 2
