"""`nightfleet flower`: Flower in the foreground, on the fleet that the settings name."""

from __future__ import annotations

import ipaddress
import logging
import signal
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from orchestrator.errors import SettingsInvalid, UsageError
from orchestrator.kernel import Kernel
from orchestrator.observability.logging import get_logger
from orchestrator.settings import Settings

log = get_logger("nightfleet.flower")


def run_flower(settings: Settings) -> int:
    """Serve Flower until SIGTERM or Ctrl-C; gives the exit code.

    Raises `SettingsInvalid` for settings that are wrong or unsafe, `UsageError` where Flower is not installed or the port is
    taken, and `BrokerUnavailable` when the broker cannot be reached at the start; later Flower waits for it.
    """
    if find_spec("flower") is None:
        raise UsageError("Flower is not installed: pip install 'nightfleet[flower]'")
    options = _configure(settings)
    if not (_is_local(options.address) or options.basic_auth or options.auth):
        raise SettingsInvalid(
            f"flower_address: {options.address or 'every address'} can be reached from elsewhere, and Flower can cancel runs "
            "and stop workers: set NIGHTFLEET_FLOWER_AUTH=user:password, or serve 127.0.0.1 and put a proxy before it"
        )
    kernel = Kernel.build(settings)
    try:
        kernel.publisher.ensure()
        # It has nothing to publish.
        kernel.publisher.close()
        _serve(kernel, options)
    finally:
        kernel.close()
    return 0


def _serve(kernel: Kernel, options: Any) -> None:
    from flower.app import Flower
    from flower.urls import settings as tornado_settings

    from worker.flower.handlers import handlers

    # Flower asks for results by the current app; this process is Flower's alone.
    kernel.app.set_current()
    flower = Flower(capp=kernel.app, options=options, **tornado_settings)
    # Flower takes both from a connection, which would name our transport in place of the scheme.
    flower.broker_uri = kernel.app.masked_broker_url
    flower.broker_uri_with_password = kernel.app.conf.broker_url
    prefix = f"/{options.url_prefix}" if options.url_prefix else ""
    flower.add_handlers(r".*", handlers(kernel.store, prefix))
    try:
        port = flower.start_http_server()
    except OSError as error:
        raise UsageError(
            f"cannot serve {options.address}:{options.port}: {error.strerror or error}; choose another with --address and --port"
        ) from None
    loop: Any = getattr(flower.io_loop, "asyncio_loop")  # noqa: B009 - tornado has no annotation for it
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, flower.stop)
    host = f"[{options.address}]" if ":" in options.address else options.address or "0.0.0.0"  # noqa: S104 - shown only
    has_auth = bool(options.basic_auth or options.auth)
    log.info("flower starts", url=f"http://{host}:{port}{prefix}/", broker=kernel.app.masked_broker_url, auth=has_auth)
    if not has_auth:
        log.warning(
            "anybody on this machine sees this Flower, so its buttons and its API are off: set NIGHTFLEET_FLOWER_AUTH"
        )
    flower.start()
    log.info("flower has stopped")


def _configure(settings: Settings) -> Any:
    """Fill Flower's options, which are one for the process: our settings, then `FLOWER_*` for all that they do not name."""
    from flower.command import apply_env_options, extract_settings
    from flower.options import default_options as options
    from flower.views.tasks import TASK_COLUMNS

    _quiet()
    # Whether workers tell of their tasks is the workers' setting.
    options.enable_events = False
    TASK_COLUMNS["root_id"] = "Run"
    options.tasks_columns = "name,state,uuid,root_id,exception,received,runtime,worker"
    # Its own 100,000 take more than a gigabyte, and the history is in the database.
    options.max_tasks = 10_000
    try:
        apply_env_options()
    except (ValueError, KeyError, AttributeError) as error:
        raise SettingsInvalid(f"FLOWER_*: {error}") from None
    options.address = settings.flower_address
    options.port = settings.flower_port
    options.url_prefix = settings.flower_url_prefix.strip("/")
    if settings.flower_auth is not None:
        options.basic_auth = credentials(settings.flower_auth.get_secret_value())
    if settings.rabbitmq_api_url is not None:
        options.broker_api = management_api(settings.rabbitmq_api_url.get_secret_value())
    try:
        extract_settings()
    except SystemExit:
        raise SettingsInvalid("FLOWER_*: Flower refuses its options, for the reason that it has logged") from None
    return options


def credentials(text: str) -> list[str]:
    """Split `user:password` pairs; raises `SettingsInvalid` without showing any."""
    pairs = [pair.strip() for pair in text.split(",")]
    if not all(user and password for user, _, password in (pair.partition(":") for pair in pairs)):
        raise SettingsInvalid("NIGHTFLEET_FLOWER_AUTH: must be user:password, several separated by commas")
    return pairs


def management_api(url: str) -> str:
    """Give the URL of RabbitMQ's management API as Flower wants it, with its path; raises `SettingsInvalid`."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise SettingsInvalid("NIGHTFLEET_RABBITMQ_API_URL: must be http://user:password@host:15672 or https://...")
    base = url.rstrip("/")
    return f"{base}/" if base.endswith("/api") else f"{base}/api/"


def _is_local(address: str) -> bool:
    """Tell whether only this machine can reach an address; an empty one is every address."""
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _quiet() -> None:
    """Say nothing of each request, but of those that fail inside; of connections only that they are lost, in one line."""
    if logging.getLogger().level > logging.DEBUG:
        logging.getLogger("tornado.access").setLevel(logging.ERROR)
        logging.getLogger("kombu.mixins").setLevel(logging.WARNING)
        logging.getLogger("kombu.mixins").addFilter(_without_traceback)


def _without_traceback(record: logging.LogRecord) -> bool:
    record.exc_info = None
    return True
