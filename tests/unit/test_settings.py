"""Settings come from defaults, a profile and the environment, in that order; whatever is wrong is said by name."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from orchestrator.errors import SettingsInvalid
from orchestrator.settings import Settings, mask

SECRET = "s3cret"
FLEET = {
    "NIGHTFLEET_BROKER_URL": f"amqp://user:{SECRET}@broker:5672//",
    "NIGHTFLEET_DATABASE_URL": f"postgresql://user:{SECRET}@database/jobs",
}


def load(monkeypatch: pytest.MonkeyPatch, config: Path | str | None = None, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return Settings.load(config)


def refused(monkeypatch: pytest.MonkeyPatch, config: Path | str | None = None, **variables: str) -> str:
    with pytest.raises(SettingsInvalid) as caught:
        load(monkeypatch, config, **variables)
    assert SECRET not in caught.value.message
    return caught.value.message


def profile(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "profile.toml"
    path.write_text(text)
    return path


def test_without_anything_the_installation_is_embedded() -> None:
    settings = Settings.load()
    assert settings.embedded
    assert (settings.namespace, settings.database_schema, settings.home) == (
        "nightfleet",
        "nightfleet",
        Path(".nightfleet"),
    )
    assert settings.lease_ttl == timedelta(seconds=15)


def test_broker_and_database_make_a_fleet(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, **FLEET)
    assert not settings.embedded
    assert settings.broker_url is not None
    assert settings.broker_url.get_secret_value() == FLEET["NIGHTFLEET_BROKER_URL"]


@pytest.mark.parametrize("only", FLEET)
def test_a_broker_without_a_database_or_the_reverse_is_an_error_with_two_ways_out(
    monkeypatch: pytest.MonkeyPatch, only: str
) -> None:
    [other] = FLEET.keys() - {only}
    message = refused(monkeypatch, **{only: FLEET[only]})
    assert f"set {other}" in message
    assert f"unset {only}" in message


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, NIGHTFLEET_BROKER_URL="", NIGHTFLEET_CONCURRENCY="").embedded


def test_blanks_around_an_address_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, **{name: f" {value}\n" for name, value in FLEET.items()})
    assert settings.database_url == SecretStr(FLEET["NIGHTFLEET_DATABASE_URL"])


@pytest.mark.parametrize(("text", "seconds"), [("2", 2), ("0.5", 0.5), ("PT1M", 60), ("00:00:07", 7)])
def test_a_duration_is_seconds_or_a_time_of_iso_8601(
    monkeypatch: pytest.MonkeyPatch, text: str, seconds: float
) -> None:
    assert load(monkeypatch, NIGHTFLEET_DRAIN_TIMEOUT=text).drain_timeout == timedelta(seconds=seconds)


def test_the_environment_comes_before_the_profile_and_the_profile_before_the_defaults(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = profile(tmp_path, 'namespace = "profile"\nconcurrency = 7\n')
    settings = load(monkeypatch, path, NIGHTFLEET_CONCURRENCY="8")
    assert (settings.namespace, settings.concurrency, settings.max_crashes) == ("profile", 8, 3)


def test_overrides_come_before_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTFLEET_CONCURRENCY", "8")
    assert Settings.load(concurrency=9).concurrency == 9


def test_a_profile_is_named_by_a_variable_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = profile(tmp_path, "concurrency = 7\n")
    assert load(monkeypatch, NIGHTFLEET_CONFIG=str(path)).concurrency == 7


def test_a_profile_of_one_load_is_not_remembered_for_the_next(tmp_path: Path) -> None:
    Settings.load(profile(tmp_path, "concurrency = 7\n"))
    assert Settings.load().concurrency == 100


def test_a_profile_that_is_not_there_is_an_error_with_its_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "gone.toml does not exist" in refused(monkeypatch, tmp_path / "gone.toml")


@pytest.mark.parametrize("name", ["broker_url", "database_url"])
def test_a_password_in_a_profile_is_an_error_that_names_the_variable_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    message = refused(monkeypatch, profile(tmp_path, f'{name} = "scheme://user:{SECRET}@host/place"\n'))
    assert f"{name} holds a password" in message
    assert f"set NIGHTFLEET_{name.upper()}" in message


def test_addresses_without_a_password_may_stand_in_a_profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = 'broker_url = "amqp://host//"\ndatabase_url = "postgresql://user@host/name?sslmode=require"\n'
    assert not load(monkeypatch, profile(tmp_path, text)).embedded


def test_a_profile_that_is_no_toml_is_an_error_with_its_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "profile.toml: " in refused(monkeypatch, profile(tmp_path, "concurrency = \n"))


def test_a_misspelt_setting_in_a_profile_is_an_error_with_the_right_spelling(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "did you mean concurrency?" in refused(monkeypatch, profile(tmp_path, "concurency = 7\n"))


def test_a_misspelt_variable_is_an_error_with_the_right_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    message = refused(monkeypatch, NIGHTFLEET_BROKER_ULR="amqp://x")
    assert message == "NIGHTFLEET_BROKER_ULR is no setting; did you mean NIGHTFLEET_BROKER_URL?"
    monkeypatch.delenv("NIGHTFLEET_BROKER_ULR")
    assert refused(monkeypatch, NIGHTFLEET_XYZZY="1") == "NIGHTFLEET_XYZZY is no setting"


def test_other_variables_of_ours_and_all_foreign_ones_are_none_of_its_business(monkeypatch: pytest.MonkeyPatch) -> None:
    load(
        monkeypatch, NIGHTFLEET_FAILPOINTS="", NIGHTFLEET_MODEL="offline", NIGHTFLEET_TEST_ANYTHING="1", BROKER_URL="x"
    )


def test_every_wrong_setting_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    message = refused(
        monkeypatch,
        NIGHTFLEET_CONCURRENCY="many",
        NIGHTFLEET_NAMESPACE="Not Good",
        NIGHTFLEET_HEARTBEAT="-1",
        NIGHTFLEET_LOG_LEVEL="LOUD",
    )
    assert all(f"{name}: " in message for name in ("concurrency", "namespace", "heartbeat", "log_level"))


def test_a_lease_that_one_late_beat_would_lose_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    message = refused(monkeypatch, NIGHTFLEET_HEARTBEAT="8")
    assert "lease_ttl must be at least twice heartbeat" in message
    load(monkeypatch, NIGHTFLEET_HEARTBEAT="7.5")


@pytest.mark.parametrize("schema", ["public; drop table run", 'x"y', "1a", "A", ""])
def test_a_schema_is_a_plain_name(schema: str) -> None:
    with pytest.raises(ValidationError):
        Settings(database_schema=schema)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().concurrency = 7  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue]


def test_secrets_are_masked_wherever_settings_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, **FLEET, NIGHTFLEET_REDIS_URL=f"redis://:{SECRET}@cache/0")
    assert SECRET not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (
            "postgresql://user:s3cret@host:5432/name?sslmode=require&password=s3cret",
            "postgresql://user:***@host:5432/name",
        ),
        ("postgresql://user@host/name", "postgresql://user@host/name"),
        ("redis://:s3cret@host:6379/0", "redis://:***@host:6379/0"),
        ("amqp://user:s3cret@host//", "amqp://user:***@host//"),
        ("amqp://user:s3cret@host:port//", "amqp://user:***@host:port//"),
        ("postgresql://user:s3cret@[::1]:5432/name", "postgresql://user:***@[::1]:5432/name"),
        ("sqlite:////srv/nightfleet.db", "sqlite:////srv/nightfleet.db"),
    ],
)
def test_an_address_is_shown_without_its_password_and_query(url: str, shown: str) -> None:
    assert mask(url) == shown
