"""Secrets of the environment are masked wherever they stand, and nothing else is."""

from __future__ import annotations

import pytest

from orchestrator.observability.redact import redactor


@pytest.mark.parametrize(
    ("variable", "value", "secrets"),
    [
        ("NIGHTFLEET_BROKER_URL", "amqp://nf:Sup3rs3cret@rabbit:5672//", ["Sup3rs3cret"]),
        ("NIGHTFLEET_DATABASE_URL", "postgresql://nf:p%40ss%2Fword@db/x", ["p%40ss%2Fword", "p@ss/word"]),
        ("NIGHTFLEET_REDIS_URL", "redis://:onlypassword@redis/0", ["onlypassword"]),
        ("NIGHTFLEET_RABBITMQ_API_URL", "http://nf:apipassword@rabbit:15672/api/", ["apipassword"]),
        ("NIGHTFLEET_FLOWER_AUTH", "ann:annspassword, bob:bobspassword", ["annspassword", "bobspassword"]),
        ("SOME_API_KEY", "0123456789abc", ["0123456789abc"]),
        ("GEMINI_API_KEYS", "AIzaSy-the-first, AIzaSy-the-second", ["AIzaSy-the-first", "AIzaSy-the-second"]),
    ],
)
def test_a_secret_is_masked_where_it_stands_alone(variable: str, value: str, secrets: list[str]) -> None:
    redact = redactor({variable: value})
    for secret in secrets:
        assert redact(f"login failed for {secret}!") == "login failed for ***!"
    shown = redact(f"connects to {value}")
    assert not any(secret in shown for secret in secrets)


def test_names_and_short_words_are_left_alone() -> None:
    env = {"A_URL": "amqp://nightfleet:nightfleet@host//", "B_URL": "amqp://u:guest@host//", "C_URL": "http://[::1"}
    redact = redactor(env)
    assert redact("nightfleet.worker: guest at [::1") == "nightfleet.worker: guest at [::1"
    assert redact(env["A_URL"]) == "amqp://nightfleet:***@host//"
