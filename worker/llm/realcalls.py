"""The guard of tests: a call of a model on another machine is an error, whichever provider would make it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from ipaddress import ip_address

from orchestrator.realmodels import are_refused

_ALLOWED: ContextVar[bool] = ContextVar("nightfleet_real_model_calls", default=False)


class RealModelCall(AssertionError):
    """A test was about to ask a model on another machine, and has not said that it wants to. Nothing was sent."""


def check_local(provider: str, host: str) -> None:
    """Raise `RealModelCall` where calls of other machines are refused, and this is one: `host` may be empty, if unknown."""
    if are_refused() and not _ALLOWED.get() and not _is_local(host):
        raise RealModelCall(
            f"this test would ask a real model: {provider} at {host or 'a host that it does not name'}. Give the agent a "
            "MockLLM, a recorded conversation or an emulator; a test that is to ask it is marked @pytest.mark.real_models, "
            "an AgentTestCase says asks_real_models = True"
        )


@contextmanager
def real_calls() -> Generator[None]:
    """Let what is called here ask a model wherever it is."""
    token = _ALLOWED.set(True)
    try:
        yield
    finally:
        _ALLOWED.reset(token)


def _is_local(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
