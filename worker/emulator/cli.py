"""The command that serves an emulator until it is interrupted."""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Sequence
from types import FrameType

from worker.emulator.faults import HEADER, KINDS, MODEL_PREFIX
from worker.emulator.server import Emulator


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until interrupted or terminated; print the environment for its clients. Exits 2 if the port is taken."""
    parser = argparse.ArgumentParser(
        prog="nightfleet emulator",
        description="Serve a local stand-in for the APIs of OpenAI and Anthropic: no keys, no cost, no language model.",
        epilog=f"Faults: a model named {MODEL_PREFIX}KIND, a header {HEADER}: KIND, or POST /_faults with a JSON list "
        f"of kinds for the next replies. Kinds: {', '.join(KINDS)}. GET /_ledger is the bill, /healthz the health.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8765, help="port to listen on, 0 for any (default: %(default)s)")
    parser.add_argument("--latency", type=float, default=0.0, metavar="SECONDS", help="how long each reply takes")
    options = parser.parse_args(argv)
    try:
        emulator = Emulator(options.host, options.port, latency_seconds=options.latency)
    except OSError as error:
        parser.error(f"cannot listen on {options.host}:{options.port}: {error.strerror}; choose another --port")
    # Before anything is printed: who reads the addresses may end us at once.
    stopped = _told_to_stop()
    with emulator:
        for name, value in emulator.env.items():
            print(f"export {name}={value}", flush=True)  # noqa: T201 - for `eval` and for eyes
        stopped.wait()
    return 0


def _told_to_stop() -> threading.Event:
    """Give an event that SIGINT and SIGTERM set."""
    stopped = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    return stopped
