"""Producers inside applications that have a `config.py`, a `worker.py` and an `agents.py` of their own: real processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from fleet import Fleet, fleet
from forks import in_a_fork
from steps import race

from orchestrator import Orchestrator
from orchestrator.kernel import Kernel

#: An application's own modules, by the names that Nightfleet's folders and packages have too.
OWN = {
    "config.py": "NAME = 'shop'\n",
    "agents.py": "AGENTS = ['Smith', 'Jones']\n",
    "worker.py": "import pathlib\npathlib.Path('worker-executed').touch()\ndef work(): return 'my own work'\n",
}


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("fleet")) as made:
        made.query("CREATE TABLE shop_order (name text PRIMARY KEY, run_id text)")
        made.start_worker()
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in OWN.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(dedent(text))


def environment(installation: Fleet, **more: str) -> dict[str, str]:
    """Give what a producer is told: where the fleet is, and nothing of agents."""
    names = ("BROKER_URL", "DATABASE_URL", "DATABASE_SCHEMA", "NAMESPACE")
    told = {f"NIGHTFLEET_{name}": installation.environment[f"NIGHTFLEET_{name}"] for name in names}
    return {**os.environ, **told, **more}


def run_python(folder: Path, installation: Fleet, *arguments: str, **more: str) -> Any:
    """Run a program of the application, and give the JSON that it prints last."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=folder,
        env=environment(installation, **more),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# A plain script -------------------------------------------------------------------------------------------------------

SCRIPT = """
    import json, sys
    import agents, config
    {import_worker}
    from orchestrator import ImportConflictError, Orchestrator, UnknownAgent

    nf = Orchestrator()
    said = {{"output": sorted(nf.submit("a=branch | gather").result(60)["seen"]), "own": [config.NAME, *agents.AGENTS]}}
    try:
        nf.submit("no_such_agent")
    except UnknownAgent as error:
        said["unknown"] = error.message
    try:
        Orchestrator.embedded("home").submit("branch")
    except ImportConflictError as error:
        said["embedded"] = error.message
    try:
        from orchestrator.testing import run_agent
    except ImportConflictError as error:
        said["kit"] = error.message
    said["worker"] = getattr(sys.modules.get("worker"), "__file__", None)
    print(json.dumps(said))
"""


@pytest.mark.parametrize("uses_its_worker", [True, False], ids=["it imports its worker", "nobody imports its worker"])
def test_a_script_submits_and_is_told_what_its_own_worker_module_is_in_the_way_of(
    uses_its_worker: bool, folder: Path, installation: Fleet
) -> None:
    write(folder, job=SCRIPT.format(import_worker="import worker" if uses_its_worker else ""))
    said = run_python(folder, installation, "job.py")
    assert said["output"] == ["a"]
    assert said["own"] == ["shop", "Smith", "Jones"]
    assert "unknown agent 'no_such_agent'" in said["unknown"]
    for what in ("embedded", "kit"):
        assert f"`import worker` finds {folder / 'worker.py'}, which is not Nightfleet's own package" in said[what]
        assert "rename that module" in said[what]
    assert said["worker"] == (str(folder / "worker.py") if uses_its_worker else None)
    assert (folder / "worker-executed").exists() is uses_its_worker
    assert not (folder / "home").exists()


# Flask and gunicorn ---------------------------------------------------------------------------------------------------

FLASK = """
    import os
    import agents, config, worker
    from flask import Flask, jsonify, request
    from orchestrator import IdempotencyConflict, Orchestrator

    nf = Orchestrator()
    if config.NAME == "used before the fork":
        nf.submit("quiet").result(60)
    parent = os.getpid()
    app = Flask(__name__)

    @app.post("/orders")
    def order():
        asked = request.get_json()
        try:
            run = nf.submit("a=branch | gather", asked, project="web", idempotency_key=asked["name"])
        except IdempotencyConflict as error:
            return {"first": error.details["run_id"]}, 409
        return {"run_id": run.id, "pid": os.getpid(), "parent": parent, "own": worker.work()}

    @app.get("/orders/<run_id>")
    def look(run_id):
        done = nf.run(run_id).wait(60)
        return {"state": done.state, "output": done.output}

    @app.get("/events/<run_id>")
    def events(run_id):
        return [str(event.state) for event in nf.run(run_id).events(after=request.args.get("after"))]
"""


@contextlib.contextmanager
def gunicorn(folder: Path, installation: Fleet, *options: str) -> Generator[str]:
    """Serve `app:app` of a folder; gives the address."""
    log = folder / "gunicorn.log"
    with log.open("wb") as file:
        server = subprocess.Popen(
            [
                sys.executable, "-m", "gunicorn", "-b", "127.0.0.1:0", "--no-control-socket", "--timeout=120", *options,
                "app:app",
            ],
            cwd=folder,
            env=environment(installation),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    try:
        address = r"Listening at: (http://\S+)"
        installation.until(lambda: re.search(address, log.read_text()) or server.poll() is not None, "gunicorn serves")
        found = re.search(address, log.read_text())
        assert found is not None, log.read_text()
        yield found[1]
    finally:
        with contextlib.suppress(ProcessLookupError):
            server.send_signal(signal.SIGTERM)
        server.wait(60)
    assert "Traceback" not in log.read_text(), log.read_text()


def ask(url: str, body: Any = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_a_flask_application_submits_and_reads(folder: Path, installation: Fleet) -> None:
    write(folder, app=FLASK)
    with gunicorn(folder, installation) as address:
        status, order = ask(f"{address}/orders", {"name": "flask"})
        assert (status, order["own"]) == (200, "my own work")
        assert ask(f"{address}/orders", {"name": "flask"})[1]["run_id"] == order["run_id"]
        assert ask(f"{address}/orders", {"name": "flask", "n": 2}) == (409, {"first": order["run_id"]})
        assert ask(f"{address}/orders/{order['run_id']}")[1]["state"] == "succeeded"
        assert ask(f"{address}/events/{order['run_id']}")[1][-1] == "succeeded"


def test_a_module_level_orchestrator_works_before_and_after_the_fork_of_a_preloading_server(
    folder: Path, installation: Fleet
) -> None:
    write(folder, app=FLASK, config="NAME = 'used before the fork'\n")
    with gunicorn(folder, installation, "--preload", "--workers=2", "--threads=4") as address:
        pids: set[int] = set()

        def order(number: int) -> str:
            _, made = ask(f"{address}/orders", {"name": f"forked {len(pids)} {number}"})
            assert made["pid"] != made["parent"]
            pids.add(made["pid"])
            return ask(f"{address}/orders/{made['run_id']}")[1]["state"]

        with ThreadPoolExecutor(8) as pool:
            installation.until(
                lambda: set(pool.map(order, range(8))) == {"succeeded"} and len(pids) == 2,
                "both processes have served",
                timeout=150,
            )


# Django ---------------------------------------------------------------------------------------------------------------

SETTINGS = """
    import os
    from psycopg.conninfo import conninfo_to_dict

    url = conninfo_to_dict(os.environ["NIGHTFLEET_DATABASE_URL"])
    SECRET_KEY = "not one"
    ROOT_URLCONF = "shop.urls"
    ALLOWED_HOSTS = ["testserver"]
    USE_TZ = True
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": url["dbname"], "HOST": url["host"], "PORT": url["port"], "USER": url["user"],
            "PASSWORD": url["password"],
            "OPTIONS": {"options": "-c search_path=" + os.environ["NIGHTFLEET_DATABASE_SCHEMA"]},
        }
    }
"""
URLS = """
    import agents, config, worker
    from django.db import connection, transaction
    from django.http import JsonResponse
    from django.urls import path
    from orchestrator import NightfleetError, Orchestrator

    nf = Orchestrator()

    def order(request, name):
        try:
            with transaction.atomic():
                run = nf.submit("a=branch | gather", {"name": name}, connection=connection)
                with connection.cursor() as cursor:
                    cursor.execute("INSERT INTO shop_order VALUES (%s, %s)", [name, run.id])
                transaction.on_commit(run.publish)
                if "fail" in request.GET:
                    raise LookupError("no such customer")
        except LookupError:
            return JsonResponse({"run_id": run.id, "own": worker.work()}, status=500)
        return JsonResponse({"run_id": run.id, "own": worker.work()})

    def loose(request):
        try:
            nf.submit("quiet", connection=connection)
        except NightfleetError as error:
            return JsonResponse({"error": error.message}, status=500)

    urlpatterns = [path("orders/<name>", order), path("loose", loose)]
"""
CLIENT = """
    import json, os
    os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
    import django
    django.setup()
    from django.test import Client
    from shop.urls import nf
    from orchestrator import RunNotFound

    client = Client()
    made, failed, loose = client.post("/orders/made"), client.post("/orders/failed?fail"), client.post("/loose")
    try:
        gone = str(nf.run(failed.json()["run_id"]).state)
    except RunNotFound:
        gone = "never was"
    done = nf.run(made.json()["run_id"]).wait(60)
    print(json.dumps([made.json(), str(done.state), gone, loose.json()["error"]]))
"""


def test_a_django_project_submits_in_its_own_transactions(folder: Path, installation: Fleet) -> None:
    (folder / "shop").mkdir()
    (folder / "shop" / "__init__.py").touch()
    write(folder / "shop", settings=SETTINGS, urls=URLS)
    write(folder, client=CLIENT)
    made, state, gone, loose = run_python(folder, installation, "client.py")
    assert (made["own"], state, gone) == ("my own work", "succeeded", "never was")
    assert "in autocommit mode" in loose
    assert installation.query("SELECT name, run_id FROM shop_order") == [("made", made["run_id"])]
    assert installation.query("SELECT count(*) FROM run WHERE input ->> 'name' = 'failed'") == [(0,)]


# Another Celery application -------------------------------------------------------------------------------------------

TASKS = """
    import json, os
    import agents, config, worker
    from celery import Celery, current_app, shared_task
    from orchestrator import Orchestrator

    app = Celery("shop", broker=os.environ["SHOP_BROKER"])
    app.conf.task_default_queue = os.environ["SHOP_QUEUE"]
    app.conf.task_default_delivery_mode = "transient"
    nf = Orchestrator()
    nf.runs(limit=1)  # used before the pool forks

    @shared_task(name="shop.ping")
    def ping():
        return "pong"

    @app.task(name="shop.order", bind=True)
    def order(self, path):
        before = dict(app.conf.changes)
        published = []
        publisher = nf.service.kernel.publisher
        publish = publisher.publish
        publisher.publish = lambda messages: (published.extend(messages), publish(messages))
        run = nf.submit("a=branch | gather", {"of": self.request.id})
        done = run.wait(60)
        said = {
            "run_id": run.id,
            "state": str(done.state),
            "ours_is_current": current_app._get_current_object() is app,
            "shared": ping.app.main,
            "unchanged": dict(app.conf.changes) == before,
            "tasks": sorted(name for name in app.tasks if name.startswith("agent.")),
            "published": len(published),
            "told_of_this_task": [each.headers for each in published if self.request.id in json.dumps(each.headers)],
            "queue": app.amqp.default_queue.name,
            "own": worker.work(),
        }
        with open(path + ".new", "w") as file:
            json.dump(said, file)
        os.rename(path + ".new", path)
"""


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_task_of_another_celery_application_submits_and_leaves_that_application_as_it_was(
    pool: str, folder: Path, installation: Fleet
) -> None:
    write(folder, tasks=TASKS)
    more = {
        "SHOP_BROKER": installation.environment["NIGHTFLEET_BROKER_URL"],
        "SHOP_QUEUE": f"shop-{secrets.token_hex(5)}",
    }
    log, said_path = folder / "celery.log", folder / "said.json"
    with log.open("wb") as file:
        celery = subprocess.Popen(
            [
                sys.executable, "-m", "celery", "-A", "tasks", "worker", f"--pool={pool}", "--concurrency=1",
                "--without-gossip", "--without-mingle", "--without-heartbeat",
            ],
            cwd=folder,
            env=environment(installation, **more),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    try:
        send = f"import json, tasks; tasks.order.delay({str(said_path)!r}); print(json.dumps(tasks.ping.app.main))"
        assert run_python(folder, installation, "-c", send, **more) == "shop"
        installation.until(
            lambda: said_path.exists() or "Traceback" in log.read_text(), "the task has run", timeout=150
        )
        assert said_path.exists(), log.read_text()
        said = json.loads(said_path.read_text())
    finally:
        os.killpg(celery.pid, signal.SIGKILL)  # Celery's own end takes ten seconds, with us or without
        celery.wait(60)
        with installation.kernel.app.connection_for_write() as connection:
            connection.default_channel.queue_delete(more["SHOP_QUEUE"])
    assert installation.orchestrator.run(said.pop("run_id")).state == "succeeded"
    assert said == {
        "state": "succeeded",
        "ours_is_current": True,
        "shared": "shop",
        "unchanged": True,
        "tasks": [],
        "published": 1,
        "told_of_this_task": [],
        "queue": more["SHOP_QUEUE"],
        "own": "my own work",
    }


# Threads and forks ----------------------------------------------------------------------------------------------------


def test_eight_threads_that_use_it_first_at_the_same_moment_share_one_kernel(
    installation: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[Kernel] = []
    build = Kernel.build.__func__  # pyright: ignore[reportFunctionMemberAccess]

    def counted(kind: type[Kernel], settings: Any) -> Kernel:
        built.append(build(kind, settings))
        return built[-1]

    monkeypatch.setattr(Kernel, "build", classmethod(counted))
    with Orchestrator(installation.kernel.settings) as nf:
        runs = race(*[lambda: nf.submit("quiet")] * 8)
        assert len(built) == 1
        assert len({run.id for run in runs}) == 8
        assert {run.wait(60).state for run in runs} == {"succeeded"}


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_in_the_middle_of_another_threads_first_use_leaves_the_child_a_working_one(
    installation: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, starting, go_on = os.getpid(), threading.Event(), threading.Event()
    build = Kernel.build.__func__  # pyright: ignore[reportFunctionMemberAccess]

    def slow(kind: type[Kernel], settings: Any) -> Kernel:
        if os.getpid() == parent:
            starting.set()
            go_on.wait(60)
        return build(kind, settings)

    monkeypatch.setattr(Kernel, "build", classmethod(slow))
    with Orchestrator(installation.kernel.settings) as nf, ThreadPoolExecutor(1) as pool:
        mine = pool.submit(lambda: nf.submit("quiet").wait(60).state)
        assert starting.wait(60)
        assert in_a_fork(lambda: nf.submit("quiet").wait(60).state == "succeeded")
        go_on.set()
        assert mine.result(60) == "succeeded"
