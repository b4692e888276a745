"""`budgets` and `cost` as they are typed, and who is charged for what is run."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from jsonschema import Draft202012Validator
from shell import ROOT, Done, Shell
from spending import Purse, call_of
from sqlalchemy import update
from steps import Steps, ago, plan_of, task

from orchestrator.cli import exit_code_of, main
from orchestrator.clock import ids
from orchestrator.commands import budgets, cost
from orchestrator.contracts.budget import Bill, Charge, Mode, OnCap, Period
from orchestrator.contracts.cost import DIMENSIONS, Dimension
from orchestrator.contracts.run import AgentRunState
from orchestrator.contracts.usage import Usage
from orchestrator.errors import BudgetExceeded, BudgetUnpriced
from orchestrator.settings import Settings
from orchestrator.store import schema
from orchestrator.store.agent_runs import Claim, Outcome
from orchestrator.store.creation import NewRun
from orchestrator.store.store import Store
from orchestrator.store.tables import model_call

Command = Callable[..., Done]
NO_RUN = "01a1f8e2-2a12-7db5-bf29-1320ff100000"


@pytest.fixture
def purse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Purse:
    """The embedded installation of this folder, in which the commands of this process work too."""
    monkeypatch.chdir(tmp_path)
    made = Store.from_settings(Settings())
    schema.upgrade(made.database)
    return Purse(Steps(made, plan_of(task("a"))))


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    def carry_out(*arguments: str) -> Done:
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        shown = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return Done(stopped.value.code, shown.out, shown.err, 0.0)

    return carry_out


def claimed(purse: Purse, project: str = "press", user: str | None = None) -> Claim:
    [run_id] = purse.steps.create(NewRun(ids.new(), "{}", charge=Charge(user)), project=project)
    return purse.steps.claim(run_id, "a")


def check(name: str, document: object) -> None:
    published = json.loads((ROOT / "docs/schemas" / f"{name}.json").read_text())
    Draft202012Validator(published, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(document)


def test_what_help_says_is_what_there_is() -> None:
    assert get_args(Period) == budgets.PERIODS
    assert set(budgets.MODES) == set(get_args(Mode))
    assert set(budgets.ON_CAP) == set(get_args(OnCap))
    assert cost.DIMENSIONS == DIMENSIONS == get_args(Dimension)


# budgets --------------------------------------------------------------------------------------------------------------


def test_a_budget_is_set_shown_raised_and_removed(purse: Purse, command: Command) -> None:
    del purse
    assert command("budgets").err == "no budgets; `nightfleet budgets set` makes one\n"
    made = command("budgets", "set", "project/press", "25", "--period", "month")
    assert made.out == "project/press: $25.00 a month, $25.00 left; at the cap: pause\n"
    raised = command("budgets", "raise", "project/press", "+10.5", "--json")
    check("budget", raised.json())
    assert raised.json()["limit_usd"] == "35.5"
    listed = command("budgets", "--json")
    check("budgets", listed.json())
    assert [(each["scope"], each["period"]) for each in listed.json()] == [("project/press", "month")]
    assert "project/press  month" in command("budgets", "list", "project/press").out
    check("budget", command("budgets", "remove", "project/press", "--json").json())
    assert command("budgets", "--json").json() == []


def test_a_budget_stays_where_there_was_no_installation_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("budgets", "set", "tenant", "1").code == 0
    assert [each["scope"] for each in command("budgets", "--json").json()] == ["tenant"]


def test_how_much_of_it_is_used_is_shown(purse: Purse, command: Command) -> None:
    claim = claimed(purse, user="ada")
    assert command("budgets", "set", "user/ada", "2", "--on-cap", "fail").code == 0
    purse.spend(call_of(claim, 0), 1_250_000_000)
    purse.ledger.reserve(call_of(claim, 1), 500_000_000)
    purse.ledger.reserve(call_of(claim, 2), 250_000_000)
    purse.ledger.unknown(call_of(claim, 2))
    row = command("budgets").out.splitlines()[1].split()
    assert row == ["user/ada", "-", "$2.00", "$1.25", "$0.50", "$0.25", "(1)", "$0.00", "fail", "0"]


def test_budgets_of_runs_are_listed_when_they_are_asked_for(purse: Purse, command: Command) -> None:
    claim = claimed(purse)
    command("budgets", "set", f"run/{claim.run_id}", "1")
    command("budgets", "set", f"agent-run/{claim.id}", "0.5")
    assert command("budgets", "--json").json() == []
    scopes = {each["scope"] for each in command("budgets", "list", "--all", "--json").json()}
    assert scopes == {f"run/{claim.run_id}", f"agent-run/{claim.id}"}
    assert len(command("budgets", "list", f"run/{claim.run_id}", "--json").json()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("set", "press", "1"), "'press' names nothing that has a budget: write tenant, project/NAME"),
        (("set", "tenant", "-1"), "No such option"),
        (("set", "tenant", "lots"), "'lots' is no amount in dollars such as 25 or 0.10"),
        (("set", f"run/{NO_RUN}", "1"), "there is no run"),
        (("set", "run/12", "1"), "'12' is no id"),
        (("set", f"batch/{NO_RUN}", "1", "--period", "day"), "a batch has one budget for all of it"),
        (("raise", "tenant", "1"), "tenant has no budget; `nightfleet budgets` lists them"),
        (("raise", "tenant", "-1"), "No such option"),
        (("set", "tenant", "1000000001"), "budget: usd 1000000001: input should be less than or equal to 1000000000"),
        (("raise", "project/none", "1"), "there is no project 'none'"),
        (("remove", "user/ada", "--period", "day"), "user/ada has no budget for a day"),
    ],
)
def test_what_cannot_be_is_said_and_changes_nothing(
    purse: Purse, command: Command, arguments: tuple[str, ...], said: str
) -> None:
    done = command("budgets", *arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert purse.budgets.list(of_runs=True) == []


def test_a_raise_that_raises_nothing_is_an_error_and_of_several_periods_one_is_named(
    purse: Purse, command: Command
) -> None:
    del purse
    command("budgets", "set", "tenant", "10", "--period", "day")
    assert "is $10.00, which is no less" in command("budgets", "raise", "tenant", "10").err
    command("budgets", "set", "tenant", "100", "--period", "month")
    assert "say --period day or month" in command("budgets", "raise", "tenant", "+1").err
    assert command("budgets", "raise", "tenant", "+1", "--period", "day").out.startswith("tenant: $11.00 a day")
    too_much = command("budgets", "raise", "tenant", "+999999999", "--period", "day")
    assert (too_much.code, "less than or equal to 1000000000" in too_much.err) == (2, True)


# cost -----------------------------------------------------------------------------------------------------------------


def settled(purse: Purse, claim: Claim, number: int, usd: float, model: str = "openai:small") -> None:
    usage = Usage(model_calls=1, input_tokens=1000, cached_input_tokens=200, output_tokens=50)
    purse.ledger.settle(call_of(claim, number, model=model), Bill(round(usd * 10**9), usage))


@pytest.fixture
def spent(purse: Purse) -> Purse:
    """Two users in two projects, with three models, one of which has no price."""
    ada, bob, nobody = claimed(purse, user="ada"), claimed(purse, user="bob"), claimed(purse, "other")
    settled(purse, ada, 0, 1.5)
    settled(purse, ada, 1, 0.25, "openai:big")
    settled(purse, bob, 0, 4)
    settled(purse, nobody, 0, 0.000_000_125)
    purse.ledger.settle(call_of(nobody, 1, model="local:free"), Bill(None, Usage(input_tokens=7)))
    purse.ledger.settle(call_of(nobody, 2), Bill(0, provenance="cache"))
    purse.ledger.unknown(call_of(nobody, 3))
    return purse


def test_costs_are_added_up_the_dearest_first(spent: Purse, command: Command) -> None:
    del spent
    assert command("cost").out.splitlines() == [
        "project  calls  tokens in  cached  out         cost  in flight    unknown  notes",
        "press        3      3,000     600  150        $5.75          -          -",
        "other        4      1,007     200   50  $0.00000012          -  $0.00 (1)  1 without a price, 1 saved",
        "all          7      4,007     800  200        $5.75          -  $0.00 (1)  1 without a price, 1 saved",
    ]
    users = command("cost", "--by", "user", "--json")
    check("cost", users.json())
    assert [(each["user"], each["usd"]) for each in users.json()] == [
        ("bob", "4"),
        ("ada", "1.75"),
        ("-", "0.000000125"),
    ]


@pytest.mark.parametrize("name", DIMENSIONS)
def test_every_dimension_adds_up_to_all_there_is(spent: Purse, command: Command, name: str) -> None:
    del spent
    lines = command("cost", "--by", name, "--json").json()
    assert sum(each["calls"] for each in lines) == 7
    assert all(each[name] for each in lines)
    check("cost", lines)


def test_billing_records_are_csv_with_exact_amounts(spent: Purse, command: Command) -> None:
    del spent
    text = command("cost", "--by", "user", "--by", "model", "--csv").out
    records = list(csv.DictReader(io.StringIO(text)))
    assert {(each["user"], each["model"]): each["usd"] for each in records} == {
        ("bob", "openai:small"): "4",
        ("ada", "openai:small"): "1.5",
        ("ada", "openai:big"): "0.25",
        ("-", "openai:small"): "0.000000125",
        ("-", "local:free"): "0",
    }


@pytest.mark.parametrize("name", ['=HYPERLINK("x")', "-2+3", "@sum"])
def test_no_spreadsheet_takes_a_name_for_a_formula(purse: Purse, command: Command, name: str) -> None:
    settled(purse, claimed(purse, user=name), 0, 1)
    [record] = csv.DictReader(io.StringIO(command("cost", "--by", "user", "--csv").out))
    assert record["user"] == f"'{name}"


def test_what_is_meant_can_be_narrowed_down(spent: Purse, command: Command) -> None:
    def total(*options: str) -> str:
        return str(sum(float(each["usd"]) for each in command("cost", *options, "--json").json()))

    assert total("--user", "ada") == "1.75"
    assert total("--user", "ada", "--model", "openai:big") == "0.25"
    assert total("--project", "press") == "5.75"
    assert total("--project", "nobody") == "0"
    assert total("--agent", "other") == "0"
    assert total("--before", "1h") == "0"
    [line] = command("cost", "--by", "run", "--by", "user", "--user", "bob", "--json").json()
    assert total("--run", line["run"]) == "4.0"
    with spent.database.connect() as connection:
        connection.execute(update(model_call).values(created_at=ago(spent.database, 40 * 86_400)))
    assert total() == "0"
    assert total("--run", line["run"]) == "4.0"
    assert total("--since", "50d", "--project", "press") == "5.75"


def test_where_nothing_was_called_a_report_says_so(purse: Purse, command: Command) -> None:
    del purse
    done = command("cost")
    assert (done.code, done.out, done.err) == (0, "", "no model calls; `--since` goes further back\n")
    assert command("cost", "--json").json() == []
    assert command("cost", "--csv", "--json").code == 2
    assert command("cost", "--by", "weekday").code == 2


# Runs -----------------------------------------------------------------------------------------------------------------


def test_a_run_is_charged_to_a_user_and_has_a_budget_of_its_own(tmp_path: Path) -> None:
    nf = Shell(tmp_path, {})
    nf.write("rows.jsonl", '{"text": "Ships."}\n')
    [made, batch, listed, wrong, nobody] = nf.one_after_the_other(
        ("run", "keywords", "--text", "Ships.", "--user", "ada", "--budget", "0.50", "--json"),
        (
            *("batch", "run", "rows.jsonl", "--workflow", "keywords", "--out", "out.jsonl"),
            *("--user", "ada", "--budget", "5", "--json"),
        ),
        ("budgets", "list", "--all", "--json"),
        ("run", "keywords", "--text", "Ships.", "--budget", "much"),
        ("run", "keywords", "--text", "Ships.", "--user", " "),
    )
    assert (made.json()["user"], made.json()["state"]) == ("ada", "succeeded")
    limits = {each["scope"]: each["limit_usd"] for each in listed.json()}
    assert limits == {f"run/{made.json()['id']}": "0.5", f"batch/{batch.json()['id']}": "5"}
    assert (wrong.code, nobody.code) == (2, 2)
    assert "is no amount in dollars" in wrong.err
    assert "' ' is no label" in nobody.err


def test_a_run_that_a_budget_has_failed_ends_a_command_with_4(purse: Purse, command: Command) -> None:
    claim = claimed(purse)
    error = BudgetExceeded("the budget of tenant has $0.00 left")
    outcome = Outcome(AgentRunState.FAILED, error=json.dumps(error.to_data()))
    purse.steps.store.runs.fail(claim, outcome)
    assert command("runs", "watch", claim.run_id).code == 4
    assert exit_code_of(error) == exit_code_of(BudgetUnpriced("no price")) == 4
