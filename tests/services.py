#!/usr/bin/env python3
"""Real Postgres, RabbitMQ, Redis and PgBouncer for the tests and the benchmarks.

    python tests/services.py start     start what does not run yet; does nothing when all is well
    python tests/services.py status    one line per server; exit code 0 when all of them answer
    python tests/services.py env       shell lines: eval "$(python tests/services.py env)"
    python tests/services.py stop      stop what was started here, and nothing else

A server that the environment names (NIGHTFLEET_TEST_DATABASE_URL, NIGHTFLEET_TEST_RABBITMQ_URL,
NIGHTFLEET_TEST_REDIS_URL, NIGHTFLEET_TEST_PGBOUNCER_URL) is used as it is, never started or stopped.
The others are private instances of the installed programs, on free ports of the loopback interface,
with their data, logs and state under `.services/` in the checkout.

Tests import this module for `start()` and `urls()`. A server that a test may stop, kill and wipe as it
likes comes from `servers.py`.

It uses the standard library only, since the servers may start before anything is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import functools
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict
from urllib.parse import urlsplit

from servers import (
    ELSEWHERE,
    HOST,
    NAME,
    PgBouncer,
    Postgres,
    RabbitMQ,
    Record,
    Redis,
    Server,
    ServicesError,
    give_away,
    identity,
    installed,
    is_free,
    listens,
    make_certificates,
)

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".services"
STATE = HOME / "state.json"

NAMES = r"NIGHTFLEET_TEST_(\w+_URL|CA_FILE)"
#: What tests need beside the servers: certificates, and a browser that looks at Flower.
PROGRAMS = ("openssl", "chromium", "chromedriver")
#: The Debian packages of programs that have another name.
PACKAGES = {"postgres": "postgresql", "chromedriver": "chromium-driver"}
KINDS: tuple[type[Server], ...] = (Postgres, RabbitMQ, Redis, PgBouncer)


class State(TypedDict):
    """What one run of the script leaves for the next, in `.services/state.json`."""

    checkout: str
    data: str
    password: str
    servers: dict[str, Record]
    urls: dict[str, str]


def start() -> dict[str, str]:
    """Start what does not run and is not named by the environment; return `urls()`."""
    for kind in KINDS:
        if (url := _named(kind)) and not _reachable(url):
            raise ServicesError(
                f"{kind.variable} names {_host(url)}, where nothing answers. Start that server or unset it."
            )
    kinds = _ours()
    if kinds and sys.platform != "linux":
        raise ServicesError(f"Servers are started on Linux only: find them elsewhere, {ELSEWHERE}", 3)
    if missing := [name for name in (*PROGRAMS, *(kind.binary for kind in kinds)) if kinds and not installed(name)]:
        _install(missing)
    with _locked_state() as state:
        servers = _servers(state, kinds)
        ailing = [server for server in servers if server.condition() != "runs" or not server.configured()]
        if ailing:
            _each(lambda server: server.stop(), ailing)
            if not all(is_free(port) for server in ailing for port in server.ports.values()):
                # Somebody took a port while its server was down: all begin anew on other ports.
                _each(lambda server: server.stop(), servers)
                state["servers"].clear()
                servers = ailing = _servers(state, kinds)
            make_certificates(Path(state["data"], "tls"))
            _each(lambda server: server.start(), ailing)
        # Who names a server in the environment does without ours, and others do not.
        state["urls"] |= {name: url for server in servers for name, url in server.urls().items()}
        if servers:
            state["urls"]["NIGHTFLEET_TEST_CA_FILE"] = f"{state['data']}/tls/ca.pem"
        _save(state)
    return urls()


def stop() -> None:
    """Stop what `start()` started. The data stays for the next start, but for RabbitMQ's, and the logs for whoever asks."""
    with _locked_state() as state:
        servers = _servers(state, KINDS)
        _each(lambda server: server.stop(), servers)
        for server in servers:
            if server.kind == "rabbitmq":  # it takes minutes to come back with the queues of thousands of tests
                shutil.rmtree(server.directory, ignore_errors=True)
        if Path(state["data"]) != HOME:  # nobody would look for it in the system's temporary folder
            shutil.rmtree(state["data"], ignore_errors=True)
            STATE.unlink()
            return
        state["servers"].clear()
        state["urls"].clear()
        _save(state)


def urls() -> dict[str, str]:
    """The servers' addresses by their names in the environment; empty when there are none."""
    known = state["urls"] if (state := _load()) else {}
    for kind in KINDS:
        if _named(kind):
            prefix = kind.variable.removesuffix("URL")
            known = {name: url for name, url in known.items() if not name.startswith(prefix)}
    named = {name: url for name, url in os.environ.items() if url and re.fullmatch(NAMES, name)}
    return known | named


def status() -> bool:
    """Print one line per server; true when all of them answer."""
    with _locked_state() as state:
        servers = _servers(state, KINDS)
    good: list[bool] = []
    for server in servers:
        if url := _named(server):
            condition = "answers" if _reachable(url) else "does not answer"
            where = f"{_host(url)}  named by {server.variable}"
        else:
            condition = server.condition()
            where = f"{HOST}:{server.port}  pid {server.pid}" if condition == "runs" else f"log: {server.log}"
        print(f"{server.kind:10} {condition:16} {where}")
        good.append(condition in ("runs", "answers"))
    return all(good)


# --- Programs ---------------------------------------------------------------------------------------------------


def _install(names: Iterable[str]) -> None:
    """Install exactly the packages of these programs where that is ours to do: as root on Debian."""
    packages = [PACKAGES.get(name, name) for name in names]
    if os.geteuid() != 0 or not Path("/etc/debian_version").exists():
        command = f"sudo apt-get install {' '.join(packages)}"
        raise ServicesError(
            f"Not installed: {', '.join(names)}. Install these (Debian, Ubuntu: `{command}`), {ELSEWHERE}", 3
        )
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with _no_system_services():
        for command in (
            "apt-get update -q",
            f"apt-get install -q -y --no-install-recommends {' '.join(packages)}",
        ):
            print(f"+ {command}", file=sys.stderr, flush=True)
            if subprocess.call(command.split(), env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr):
                raise ServicesError(f"`{command}` failed, see above. Mend that, {ELSEWHERE}", 3)


@contextlib.contextmanager
def _no_system_services() -> Generator[None]:
    """Keep new packages from starting servers of their own; a policy that the machine has already stands."""
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


# --- State ------------------------------------------------------------------------------------------------------


def _named(kind: type[Server] | Server) -> str:
    """The address that the environment has for this kind of server, if any."""
    return os.environ.get(kind.variable, "")


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _reachable(url: str) -> bool:
    parts = urlsplit(url)
    usual = {"amqp": 5672, "amqps": 5671, "redis": 6379, "rediss": 6379}.get(parts.scheme, 5432)
    return listens(parts.hostname or HOST, parts.port or usual)


def _ours() -> list[type[Server]]:
    """The kinds of servers that are not named by the environment."""
    kinds = [kind for kind in KINDS if not _named(kind)]
    if Postgres not in kinds and PgBouncer in kinds and not installed(PgBouncer.binary):
        kinds.remove(PgBouncer)  # who brings the servers does not have to install one for this alone
    return kinds


def _servers(state: State, kinds: Iterable[type[Server]]) -> list[Server]:
    """The servers as the state has them; one that it does not know is new."""
    servers: dict[type[Server], Server] = {}
    for kind in KINDS:
        data, log = Path(state["data"]), HOME / "logs" / f"{kind.kind}.log"
        record = state["servers"].get(kind.kind, {})
        server = kind(data / kind.kind, log, state["password"], data / "tls", **record)
        server.spawned = functools.partial(_remember, state, server)
        servers[kind] = server
        if isinstance(server, PgBouncer):
            server.database_url = _named(Postgres) or servers[Postgres].url
    return [servers[kind] for kind in kinds]


_saving = threading.Lock()


def _remember(state: State, server: Server) -> None:
    """Note a new process at once, so that it can be stopped even if we do not live to see it ready."""
    with _saving:
        state["servers"][server.kind] = {"pid": server.pid, "birth": server.birth, "ports": server.ports}
        _save(state)


def _each(action: Callable[[Server], None], servers: Sequence[Server]) -> None:
    with ThreadPoolExecutor() as pool:
        for result in [pool.submit(action, server) for server in servers]:
            result.result()


def _load() -> State | None:
    try:
        state: State = json.loads(STATE.read_text())
    except (FileNotFoundError, ValueError):
        return None
    # A copied folder brings the state of the original along, whose servers are not ours.
    return state if state["checkout"] == str(ROOT) else None


def _save(state: State) -> None:
    new = STATE.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text(json.dumps(state, indent=2) + "\n")
    new.replace(STATE)


def _new_state() -> State:
    data = HOME
    # Not every checkout can hold the data: the servers' user cannot go below /root, say, and the start
    # script of RabbitMQ stumbles over blanks and quotes.
    if re.search(r"[^\w./+-]", str(HOME)) or subprocess.call(["test", "-x", HOME], **identity()):
        data = Path(tempfile.mkdtemp(prefix=f"{NAME}-services-"))
        give_away(data)
    for kind in KINDS:
        shutil.rmtree(data / kind.kind, ignore_errors=True)  # its password is lost
    return {"checkout": str(ROOT), "data": str(data), "password": secrets.token_hex(12), "servers": {}, "urls": {}}


@contextlib.contextmanager
def _locked_state() -> Generator[State]:
    """The state, for one process at a time."""
    (HOME / "logs").mkdir(parents=True, exist_ok=True)
    with (HOME / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (state := _load()):
            _save(state := _new_state())
        yield state


# --- Command line -----------------------------------------------------------------------------------------------


def _print_environment() -> None:
    if not (known := urls()):
        raise ServicesError("No server was started: run `python tests/services.py start` first.")
    for name, value in sorted(known.items()):
        print(f"export {name}={shlex.quote(value)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("start", "stop", "status", "env"))
    action = parser.parse_args().action
    # What was begun is noted also when we are told to end.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if action == "start":
            start()
        elif action == "stop":
            stop()
        elif action == "env":
            _print_environment()
        return 0 if action in ("stop", "env") or status() else 1
    except ServicesError as error:
        print(error, file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return 130
    except PermissionError as error:
        print(
            f"{error}\nIf another user started the servers, that user has to stop them and remove {HOME}.",
            file=sys.stderr,
        )
        return 1


if __name__ == "__main__":
    sys.exit(main())
