"""The shape of the source: who imports whom, what an import may do, what is exported, how big things get."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from textwrap import dedent

import pytest

import orchestrator

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("orchestrator", "worker")
FILES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
MIGRATIONS = "orchestrator.store.migrations"


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES: Mapping[str, Path] = {name_of(file): file for file in FILES}


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(), str(file))


def for_types_only(node: ast.AST) -> bool:
    """Tell whether this is `if TYPE_CHECKING:`, which nothing executes."""
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(node: ast.AST) -> Iterator[str]:
    """Give every module that is imported at or below a node, at once or later."""
    for child in ast.iter_child_nodes(node):
        if for_types_only(child):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            assert child.level == 0, "imports are absolute"
            for alias in child.names:
                full = f"{child.module}.{alias.name}"
                yield full if full in MODULES else child.module
        else:
            yield from imports(child)


@cache
def imported_by(file: Path) -> frozenset[str]:
    return frozenset(imports(tree_of(file)))


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def importers(*packages: str) -> set[str]:
    """Give the modules that import any of some packages."""
    return {name for name, file in MODULES.items() if any(within(each, *packages) for each in imported_by(file))}


# Direction ------------------------------------------------------------------------------------------------------------

#: What the data plane may know of the control plane.
KERNEL = tuple(
    f"orchestrator.{name}"
    for name in (
        "binding", "contracts", "errors", "clock", "process_lock", "cached_property", "failpoints", "settings", "broker", "store",
        "journal", "bus", "registry", "context", "observability", "advance", "recovery", "retention", "planning", "kernel",
        "imports", "realmodels", "signals", "shipped", "httpserver", "webhooks.document", "webhooks.schedule", "webhooks.signing",
    )
)  # fmt: skip


def test_the_control_plane_never_imports_the_data_plane() -> None:
    assert {name for name in importers("worker") if within(name, "orchestrator")} == set()


def test_the_data_plane_imports_the_kernel_of_the_control_plane_and_nothing_above_it() -> None:
    wrong = {
        (name, imported)
        for name, file in MODULES.items()
        if within(name, "worker")
        for imported in imported_by(file)
        if within(imported, "orchestrator") and not within(imported, *KERNEL)
    }
    assert wrong == set()


#: What effects are made of.
VALUES = ("worker.guards.base", "worker.llm.base", "worker.llm.message", "worker.tools.needs")


def test_the_effect_seam_knows_neither_who_executes_it_nor_a_database() -> None:
    wrong = {
        (name, imported)
        for name, file in MODULES.items()
        if within(name, "worker.effects")
        for imported in imported_by(file)
        if (within(imported, "worker") and not within(imported, "worker.effects", *VALUES))
        or within(imported, "sqlalchemy", "psycopg", "orchestrator.store.database")
    }
    assert wrong == set()


@pytest.mark.parametrize("file", sorted((ROOT / "agents").rglob("*.py")), ids=lambda file: file.name)
def test_an_agent_imports_the_plugin_sdk_the_standard_library_and_pydantic(file: Path) -> None:
    allowed = {*sys.stdlib_module_names, "pydantic"}
    wrong = {name for name in imported_by(file) if name.partition(".")[0] not in allowed and name != "worker.agent"}
    assert wrong == set()


def test_celery_stays_at_the_rim() -> None:
    rim = ("orchestrator.broker", "orchestrator.planning.canvas", "orchestrator.store.backend")
    data_plane = (
        "app command consumer control embedded flower lifecycle nodes.foreign_app pool reload request strategy tasks"
    )
    rim += tuple(f"worker.{name}" for name in data_plane.split())
    assert {name for name in importers("celery", "kombu", "billiard", "amqp") if not within(name, *rim)} == set()


def test_sql_stays_in_the_store() -> None:
    users = importers("sqlalchemy", "alembic", "psycopg", "sqlite3")
    assert {name for name in users if not within(name, "orchestrator.store")} == set()


def test_producers_and_workers_load_neither_sqlalchemy_nor_a_model_sdk_to_begin_with() -> None:
    script = """
        import sys
        import orchestrator.service, worker.command, worker.embedded
        print(sorted({"sqlalchemy", "alembic", "openai", "anthropic", "redis"} & sys.modules.keys()))
    """
    done = subprocess.run([sys.executable, "-c", dedent(script)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
def test_the_sdk_of_a_provider_is_imported_by_its_own_module_alone_and_only_when_it_is_used(sdk: str) -> None:
    assert importers(sdk) == {f"worker.llm.{sdk}"}
    at_once = [
        node for node in tree_of(MODULES[f"worker.llm.{sdk}"]).body if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert all(not within(name, sdk) for name in imports(ast.Module(list[ast.stmt](at_once), [])))


def test_time_identity_and_chance_come_from_the_clock_alone() -> None:
    users = importers("time", "random", "uuid", "secrets")
    assert users <= {"orchestrator.clock"} | EXPLAINED.keys(), users


#: Why a module may ask the host directly.
EXPLAINED: dict[str, str] = {
    "orchestrator.commands.place": "parses ids that users type",
}


def test_no_module_is_called_utils() -> None:
    assert [name for name in MODULES if re.search(r"\b(utils?|helpers?|misc|common)$", name)] == []


# Cycles ---------------------------------------------------------------------------------------------------------------


def dependencies() -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for name, file in MODULES.items():
        found[name] = {each for each in imported_by(file) if each in MODULES and each != name}
    return found


def test_there_is_no_import_cycle_counting_lazy_imports() -> None:
    """A module leaves when all that it imports has left; what remains is a cycle or stands above one."""
    waiting = dependencies()
    while free := [name for name, needs in waiting.items() if not needs & waiting.keys()]:
        for name in free:
            del waiting[name]
    assert {name: sorted(needs & waiting.keys()) for name, needs in waiting.items()} == {}


# Effects of importing -------------------------------------------------------------------------------------------------

PURITY = """
import json, logging, os, signal, sys, threading
bad = []
environment, folder = dict(os.environ), os.getcwd()
handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}

def audit(event, arguments):
    if event in ("socket.connect", "socket.bind", "subprocess.Popen", "os.fork", "os.system", "os.mkdir", "os.remove"):
        bad.append(f"{event} {arguments[:1]}")
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        bad.append(f"open {arguments[0]} {arguments[1]}")

sys.dont_write_bytecode = True
sys.addaudithook(audit)
import importlib
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
if dict(os.environ) != environment:
    bad.append("the environment has changed")
if threading.active_count() != 1:
    bad.append(f"threads: {threading.enumerate()}")
if logging.getLogger().handlers or any(
    logger.handlers and not all(isinstance(handler, logging.NullHandler) for handler in logger.handlers)
    for name, logger in logging.Logger.manager.loggerDict.items()
    if isinstance(logger, logging.Logger) and name.partition(".")[0] in ("orchestrator", "worker", "nightfleet")
):
    bad.append("logging has handlers")
if {number: signal.getsignal(number) for number in handlers} != handlers:
    bad.append("signals have handlers")
if os.getcwd() != folder:
    bad.append("the working directory has changed")
print(json.dumps(bad))
"""


def importable() -> list[str]:
    """Every module but those whose import is their purpose: migrations, which Alembic executes."""
    return [name for name in MODULES if not within(name, MIGRATIONS) and not name.endswith("__main__")]


def run_python(code: str, *arguments: str, cwd: Path = ROOT) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], check=True, cwd=cwd, capture_output=True, text=True, timeout=60
    )
    return done.stdout


def test_importing_everything_has_no_effect(tmp_path: Path) -> None:
    assert json.loads(run_python(PURITY, json.dumps(importable()), cwd=tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


def test_what_a_producer_imports_brings_no_client_of_any_service() -> None:
    heavy = ("celery", "kombu", "sqlalchemy", "psycopg", "redis", "openai", "anthropic", "alembic", "structlog")
    code = f"import orchestrator, sys; orchestrator.Orchestrator(); print([each for each in {heavy} if each in sys.modules])"
    assert run_python(code).strip() == "[]"


def test_what_a_plugin_author_imports_brings_no_client_of_any_service() -> None:
    heavy = ("celery", "kombu", "sqlalchemy", "psycopg", "redis", "openai", "anthropic", "alembic")
    code = f"import worker.agent, sys; print([each for each in {heavy} if each in sys.modules])"
    assert run_python(code).strip() == "[]"


# The surface ----------------------------------------------------------------------------------------------------------

EXPORTS = [
    "AgentPool", "AgentRegistry", "AgentRunResult", "AgentRunState", "AgentState", "AnswerRefused", "Answered",
    "AsyncOrchestrator", "AsyncRunHandle", "BatchFailure", "BatchOptions", "BatchProgress", "BatchResult", "Branch",
    "Budget", "BudgetExceeded", "BudgetSummary", "BudgetUnpriced", "Case", "CeleryTask", "Changes", "Comparison",
    "Compensation", "Contains", "CostFilter", "CostLine", "DeadAgentRun", "Evaluation", "EvaluationReport",
    "EvaluationSummary", "Exact", "Experiment", "ExperimentReport", "Fallback", "Function", "Grade",
    "IdempotencyConflict", "ImportConflictError", "InputInvalid", "Judge", "Limits", "LiveAgent", "NightfleetError",
    "Normalized", "Number", "Orchestrator", "PoolSummary", "ProjectSummary", "Question", "QuestionNotFound",
    "Retention", "RetryPolicy", "RunCancelled", "RunEvent", "RunFailed", "RunFilter", "RunHandle", "RunNotFound",
    "RunResult", "RunState", "RunStateConflict", "RunSummary", "Schema", "ServiceUnavailable", "Settings",
    "SharedValue", "SharedValues", "TaskDefinition", "Timeouts", "ToolUse",
    "UnknownAgent", "UnknownCapability", "Usage", "UsageError", "ValueTooLarge",
    "Variant", "WorkerState", "WorkerSummary", "WorkflowDefinition", "WorkflowInvalid", "adaptive", "any_agent",
    "consensus", "handoff", "leader_follower", "loop", "map_over", "nested", "parallel", "router", "sequential",
]  # fmt: skip


def test_a_producer_is_offered_exactly_these_names() -> None:
    assert orchestrator.__all__ == EXPORTS
    assert all(getattr(orchestrator, name).__name__ == name for name in EXPORTS)
    assert set(EXPORTS) <= set(dir(orchestrator))
    with pytest.raises(AttributeError, match="has no attribute 'Orchestrater'"):
        _ = orchestrator.Orchestrater  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]


def test_type_checkers_see_every_exported_name() -> None:
    [for_checkers] = [node for node in tree_of(ROOT / "orchestrator/__init__.py").body if for_types_only(node)]
    names = [
        alias.asname for node in ast.walk(for_checkers) if isinstance(node, ast.ImportFrom) for alias in node.names
    ]
    assert sorted(filter(None, names)) == EXPORTS


def test_both_packages_say_that_they_are_typed() -> None:
    assert all((ROOT / package / "py.typed").is_file() for package in PACKAGES)


@pytest.mark.parametrize("folder", ["agents", "config", "tests"])
def test_what_is_no_package_has_no_init_file(folder: str) -> None:
    """An importable `agents` would shadow the OpenAI Agents SDK, an importable `config` the user's own."""
    assert list((ROOT / folder).rglob("__init__.py")) == []


# Size -----------------------------------------------------------------------------------------------------------------

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
LIMITS = {"module": 400, "class": 250, "function": 60, "parameters": 8}

#: What is bigger than the guides say, with the reason. An entry that is needed no longer is an error.
BIGGER = {
    "class orchestrator.client.Orchestrator": "a producer's whole surface, one short method for each use case",
    "module orchestrator.client": "the same, and what each of them guarantees",
    "class orchestrator.aio.AsyncOrchestrator": "the same with `await`",
    "module orchestrator.aio": "the same with `await`",
    "module orchestrator.store.tables": "one schema, read as one",
    "parameters orchestrator.aio.submit": "as the blocking one",
    "parameters orchestrator.client.submit": "what a run is given is said in one call, by name",
    "parameters worker.testing.running.run_agent": "a test names what matters to it, in one call",
    "function orchestrator.store.migrations.versions.0001_first.upgrade": "the tables, one after the other",
    "module worker.agent": "what an author imports, and one short method for each thing that a context does",
    "parameters worker.tools.tool.tool": "each is a property of its own, given by name",
    "module orchestrator.errors": "one tree of errors, drawn once",
    "parameters orchestrator.faults.kit.run_workflow": "a test names the faults that matter to it, in one call",
}


def definitions(file: Path) -> Iterator[Definition]:
    return (node for node in ast.walk(tree_of(file)) if isinstance(node, Definition))


def sizes() -> Iterator[tuple[str, str, int]]:
    """Give kind, name and size of everything that has a limit."""
    for name, file in MODULES.items():
        yield "module", name, len(file.read_text().splitlines())
        for node in definitions(file):
            kind = "class" if isinstance(node, ast.ClassDef) else "function"
            yield kind, f"{name}.{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1
            if not isinstance(node, ast.ClassDef):
                given = node.args
                yield "parameters", f"{name}.{node.name}", len([*given.posonlyargs, *given.args, *given.kwonlyargs])


def test_nothing_is_bigger_than_the_guides_but_what_has_a_reason() -> None:
    bigger = {f"{kind} {name}": size for kind, name, size in sizes() if size > LIMITS[kind]}
    assert bigger.keys() - BIGGER.keys() == set(), bigger
    assert BIGGER.keys() - bigger.keys() == set()


# Text -----------------------------------------------------------------------------------------------------------------


def tracked() -> Iterator[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], check=True, cwd=ROOT, capture_output=True, text=True)
    return (file for name in listed.stdout.split("\0") if name and (file := ROOT / name).is_file())


def texts() -> Iterator[tuple[str, str]]:
    """Give path and content of every text under version control."""
    for file in tracked():
        try:
            yield str(file.relative_to(ROOT)), file.read_text()
        except UnicodeDecodeError:
            continue


def test_the_newest_entry_of_the_changelog_is_the_version_of_the_package() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert orchestrator.__version__ == version
    changelog = ROOT / "CHANGELOG.md"
    if changelog.exists():
        headings = re.findall(r"^## \[?([\w.]+)", changelog.read_text(), flags=re.MULTILINE)
        assert next(each for each in headings if each != "Unreleased") == version


def test_no_test_waits_by_the_clock() -> None:
    """Waiting for an event is as fast as it can be and as slow as it must be; a sleep is neither."""
    tests = (file for file in (ROOT / "tests").rglob("*.py") if file.name.startswith(("test_", "conftest")))
    assert [str(file) for file in tests if f"time.{'sleep'}(" in file.read_text()] == []


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    place = re.compile(r"(?<![\w./~-])/(?:home|Users|root|work|workspace|mnt|private)/\w[\w./-]*")
    in_the_image = {("Dockerfile", "/".join(("", "home", "nightfleet")))}
    assert {(path, found[0]) for path, text in texts() for found in place.finditer(text)} <= in_the_image
