"""The files that deploy a fleet: valid, and without what nobody should run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cli import COMMANDS
from orchestrator.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service.get("image") == "nightfleet"}
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    tool = Path(sys.executable).with_name(str(command[0]))
    return subprocess.run([tool, *command[1:]], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


# Compose --------------------------------------------------------------------------------------------------------------


def test_the_compose_file_is_valid() -> None:
    done = run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_process_of_a_fleet_is_there() -> None:
    assert SERVICES.keys() == {"postgres", "rabbitmq", "redis", "schema", "worker", "beat", "flower"}
    assert OURS.keys() == {"schema", "worker", "beat", "flower"}
    assert SERVICES["worker"]["deploy"]["replicas"] >= 2


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - {"schema"}))
def test_what_runs_has_a_health_check_and_comes_back(name: str) -> None:
    service = SERVICES[name]
    assert service["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}
    assert {"interval", "timeout", "retries"} <= service["healthcheck"].keys()
    assert service["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", OURS)
def test_ours_wait_for_what_they_need_and_may_do_nothing_else(name: str) -> None:
    service = OURS[name]
    conditions = {key: value["condition"] for key, value in service["depends_on"].items()}
    if name == "schema":
        assert conditions == {"postgres": "service_healthy"}
    else:
        assert conditions["schema"] == "service_completed_successfully"
        assert conditions["rabbitmq"] == "service_healthy"
    assert "user" not in service  # that of the image, which is not root
    assert service["cap_drop"] == ["ALL"]


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_may_gain_privileges_or_has_the_hosts(name: str) -> None:
    service = SERVICES[name]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.keys() & {"privileged", "network_mode", "pid", "ipc", "cap_add", "devices"}


def test_every_published_port_is_on_the_loopback_address() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert published
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in published)


def test_every_password_must_be_given() -> None:
    """A variable without a value ends `docker compose up`, and no password stands in the file."""
    text = "\n".join(line for line in (ROOT / "docker-compose.yml").read_text().splitlines() if "#" not in line)
    secret = re.compile(r"PASS|AUTH|SECRET|TOKEN")
    used = re.findall(r"\$\{([A-Z_]+)([^}]*)\}", text)
    assert {name for name, _ in used} == {"POSTGRES_PASSWORD", "RABBITMQ_PASSWORD", "REDIS_PASSWORD", "FLOWER_AUTH"}
    assert all(rest.startswith(":?") for name, rest in used if secret.search(name))
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if secret.search(name):
                assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), name
            assert not re.search(r"://[^/@$]*:[^$@]+@", str(value)), name


def test_every_setting_and_command_of_it_exists() -> None:
    known = {f"NIGHTFLEET_{name.upper()}" for name in Settings.model_fields}
    for service in OURS.values():
        assert {name for name in service["environment"] if name.startswith("NIGHTFLEET_")} <= known
        assert service["command"][0] == "nightfleet"
        assert service["command"][1] in COMMANDS


def test_state_is_in_volumes_and_the_servers_are_the_tested_ones() -> None:
    assert {
        volume.partition(":")[0] for name in ("postgres", "rabbitmq", "redis") for volume in SERVICES[name]["volumes"]
    } == set(COMPOSE["volumes"])
    assert SERVICES["rabbitmq"]["image"].startswith("rabbitmq:3.10")
    assert SERVICES["postgres"]["image"] == "postgres:15"
    assert SERVICES["redis"]["image"] == "redis:7"


def test_a_health_check_asks_where_the_process_answers() -> None:
    port = OURS["worker"]["environment"]["NIGHTFLEET_METRICS_PORT"]
    for name in ("worker", "beat"):
        assert f"127.0.0.1:{port}/healthz" in OURS[name]["healthcheck"]["test"][-1]
    assert "127.0.0.1:5555/healthcheck" in OURS["flower"]["healthcheck"]["test"][-1]
    for name in ("worker", "beat", "flower"):
        compile(OURS[name]["healthcheck"]["test"][-1], name, "exec")
    targets = yaml.safe_load((ROOT / "config/prometheus.yml").read_text())["scrape_configs"][0]["dns_sd_configs"][0]
    assert (targets["port"], set(targets["names"])) == (int(port), {"worker", "beat"})


def test_a_worker_gets_the_time_that_it_takes_to_stop() -> None:
    assert OURS["worker"]["stop_grace_period"] == "1m"
    assert Settings.model_fields["drain_timeout"].default.total_seconds() < 60


# The image ------------------------------------------------------------------------------------------------------------


def test_the_linter_has_nothing_to_say_about_the_dockerfile() -> None:
    done = run("hadolint", "Dockerfile")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_is_not_roots_and_has_nothing_that_builds() -> None:
    build, final = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    assert " AS build" in build
    user = re.search(r"^USER (\d+)$", final, flags=re.MULTILINE)
    assert user
    assert int(user[1]) > 0
    assert f"--uid {user[1]} " in final
    assert not re.search(r"\bpip\b|apt-get|gcc|COPY \. ", final)
    assert re.findall(r"^COPY --from=build (\S+)", final, flags=re.MULTILINE) == ["/opt/nightfleet"]


def test_the_image_is_built_from_what_it_needs_and_no_secret() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert allowed == {
        "agents",
        "config",
        "orchestrator",
        "worker",
        "pyproject.toml",
        "constraints.txt",
        "README.md",
        "LICENSE",
    }
    copied = set(
        re.findall(
            r"[\w./-]+(?=.* \S+$)", "\n".join(re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, flags=re.MULTILINE))
        )
    )
    assert {path for path in copied if path != "."} <= {
        *allowed,
        "./",
        "orchestrator/__init__.py",
        "worker/__init__.py",
    }


# The Procfile ---------------------------------------------------------------------------------------------------------


def test_the_procfile_has_the_processes_of_a_fleet() -> None:
    lines = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
    assert lines == {name: f"nightfleet {name}" for name in ("worker", "beat", "flower")}
