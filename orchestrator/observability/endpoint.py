"""The small HTTP server of a process: `/metrics` for Prometheus, `/healthz` for whoever restarts what is ill."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any

from orchestrator.errors import SettingsInvalid
from orchestrator.httpserver import HttpServer, Wsgi

#: Tells what is wrong with this process, None while nothing is.
Ailment = Callable[[], str | None]

_PLAIN = ("Content-Type", "text/plain; charset=utf-8")


def require_client() -> None:
    """Raise `SettingsInvalid` where Prometheus' client is not installed: it is wanted by who sets a port, and by no other."""
    if find_spec("prometheus_client") is None:
        raise SettingsInvalid(
            "NIGHTFLEET_METRICS_PORT is set, and the package 'prometheus-client' is not installed: "
            "pip install 'nightfleet[worker]', or unset it"
        )


class Endpoint(HttpServer):
    """Listens from its creation to `close`; raises `SettingsInvalid` where it cannot. `port` 0 takes a free one."""

    def __init__(self, address: str, port: int, metrics: Wsgi, ailment: Ailment) -> None:
        super().__init__(
            address,
            port,
            _app(metrics, ailment),
            name="nightfleet-metrics",
            what="metrics",
            cure=(
                "set NIGHTFLEET_METRICS_PORT to another port (0 takes a free one), or NIGHTFLEET_METRICS_ADDRESS to an "
                "address of this machine"
            ),
        )


def _app(metrics: Wsgi, ailment: Ailment) -> Wsgi:
    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics":
                return metrics(environ, start)
            case "/healthz":
                what = ailment()
                start("200 OK" if what is None else "503 Service Unavailable", [_PLAIN])
                return [f"{what or 'ok'}\n".encode()]
            case _:
                start("404 Not Found", [_PLAIN])
                return [b"there are /metrics and /healthz\n"]

    return answer
