"""Where a process has its messages, and whether another one has them elsewhere."""

from __future__ import annotations

import pytest
from fleet import settings_of

from orchestrator.broker.address import address_of, is_other


def address(url: str, namespace: str = "nightfleet") -> str:
    found = address_of(settings_of(broker_url=url, database_url="postgresql://h/d", namespace=namespace))
    assert found is not None
    return found


def test_an_address_shows_neither_user_nor_password_nor_options() -> None:
    assert address("amqp://me:secret@rabbit.example:5672/jobs?ssl=1") == "amqp://rabbit.example:5672/jobs nightfleet"
    assert address("redis://:secret@h/2?x=y") == "redis://h:6379/2 nightfleet"
    assert address("amqp://a:b@one//;amqp://a:b@two//") == "amqp://one:5672//;amqp://two:5672// nightfleet"


def test_an_embedded_process_has_none() -> None:
    assert address_of(settings_of()) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("amqp://u:p@h:5672//", "pyamqp://v:q@h"),
        ("amqp://h//", "amqps://h//"),
        ("amqp://h/%2F", "amqp://H//"),
        ("redis://h", "rediss://h:6379/0"),
        ("amqp://one//;amqp://two//", "amqp://two//"),
        # The published port of a container.
        ("amqp://rabbitmq:5672//", "amqp://localhost:15672//"),
        ("redis://redis:6379/0", "redis://127.0.0.1:6380/0"),
    ],
)
def test_one_broker_has_many_spellings(one: str, other: str) -> None:
    assert not is_other(address(one), address(other))
    assert not is_other(address(other), address(one))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("amqp://h//", "amqp://h/staging"),
        ("redis://h/0", "redis://h/1"),
        ("amqp://h//", "redis://h"),
        ("amqp://rabbit.one//", "amqp://rabbit.two//"),
        ("redis://h:6379", "redis://h:6380"),
    ],
)
def test_what_is_published_to_another_broker_never_arrives(one: str, other: str) -> None:
    assert is_other(address(one), address(other))


def test_another_namespace_is_another_place_on_the_same_broker() -> None:
    assert is_other(address("amqp://h//", "a"), address("amqp://h//", "b"))
