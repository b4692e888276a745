"""The command that serves an emulator until it is interrupted."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from orchestrator.signals import told_to_stop
from worker.emulator.faults import HEADER, KINDS, MODEL_PREFIX
from worker.emulator.latency import to_latency
from worker.emulator.server import Emulator
from worker.emulator.setup import Setup, read_setup


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until interrupted or terminated; print the environment for its clients. Exits 2 if the port is taken."""
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        setup = read_setup(options.setup) if options.setup else Setup()
        if options.latency is not None:
            latency = to_latency(options.latency)
            setup = setup.model_copy(update={"latency": latency})
    except ValueError as error:
        parser.error(str(error))
    try:
        emulator = Emulator(options.host, options.port, setup=setup)
    except OSError as error:
        parser.error(f"cannot listen on {options.host}:{options.port}: {error.strerror}; choose another --port")
    # Before anything is printed: who reads the addresses may end us at once.
    with told_to_stop() as stopped, emulator:
        for name, value in emulator.env.items():
            print(f"export {name}={value}", flush=True)  # noqa: T201 - for `eval` and for eyes
        stopped.wait()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nightfleet emulator",
        description="Serve a local stand-in for the APIs of OpenAI and Anthropic: no keys, no cost, no language model.",
        epilog=f"Faults: a model named {MODEL_PREFIX}KIND, a header {HEADER}: KIND, or POST /_faults with a JSON list "
        f"of kinds for the next replies. Kinds: {', '.join(KINDS)}. GET /_ledger is the bill, /healthz the health.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8765, help="port to listen on, 0 for any (default: %(default)s)")
    parser.add_argument(
        "--latency", metavar="SECONDS", help="how long each reply takes, or a distribution: lognormal:MEDIAN:P99"
    )
    parser.add_argument("--setup", type=Path, metavar="FILE", help="TOML with prices, limits, rules and latency")
    return parser
