"""Flower as somebody sees it: in a real browser, with its password, its task list and its buttons."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator
from datetime import timedelta
from pathlib import Path

import pytest
from fleet import Fleet, fleet
from monitor import PASSWORD, USER, Flower, flower, task_id_of
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from orchestrator import RetryPolicy, TaskDefinition, WorkflowDefinition

#: Nothing of this machine's user, and nothing that calls its maker.
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--window-size=1700,800",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)  # fmt: skip


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Generator[Fleet]:
    with fleet(tmp_path_factory.mktemp("browser"), concurrency=10, lease_ttl=600) as made:
        made.start_worker()
        yield made


@pytest.fixture(scope="module")
def monitor(installation: Fleet) -> Generator[Flower]:
    with flower(installation) as made:
        made.worker = made.worker_name()
        yield made


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Generator[webdriver.Chrome]:
    """A browser of an empty profile, which finds this machine and nothing else."""
    driver, program = shutil.which("chromedriver"), shutil.which("chromium")
    assert driver, "chromedriver is not installed: `python tests/services.py start` installs it"
    assert program, "chromium is not installed: `python tests/services.py start` installs it"
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*_FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    with webdriver.Chrome(options=options, service=Service(driver)) as made:
        yield made


@pytest.fixture
def look(browser: webdriver.Chrome, monitor: Flower) -> Callable[[str], None]:
    """Open a page of Flower as an operator."""
    # A page whose own address has credentials may not ask for anything: they are given once, and kept.
    browser.get(f"{monitor.url.replace('//', f'//{USER}:{PASSWORD}@', 1)}/healthcheck")
    browser.get(f"{monitor.url.replace('//', f'//{USER}:{PASSWORD}@', 1)}/tasks")

    def open_page(path: str) -> None:
        browser.get(f"{monitor.url}{path}")

    return open_page


def picture(browser: webdriver.Chrome, name: str) -> None:
    """Keep what is seen, if somebody wants the pictures of the documentation: `NIGHTFLEET_TEST_PICTURES=docs/images`."""
    folder = os.environ.get("NIGHTFLEET_TEST_PICTURES")
    if folder:
        browser.save_screenshot(str(Path(folder) / f"flower-{name}.png"))


def found(browser: webdriver.Chrome, css: str, text: str = "") -> WebElement:
    """Wait for an element that shows a text."""

    def visible(_: webdriver.Chrome) -> WebElement | None:
        return next((each for each in browser.find_elements(By.CSS_SELECTOR, css) if text in each.text), None)

    element = WebDriverWait(browser, 60, ignored_exceptions=[Exception]).until(visible)
    assert element is not None
    return element


def test_it_asks_for_the_password(browser: webdriver.Chrome, monitor: Flower) -> None:
    browser.get(f"{monitor.url}/tasks")
    assert not browser.find_elements(By.ID, "tasks-table")
    assert any("401" in entry["message"] for entry in browser.get_log("browser"))


def test_the_task_list_shows_agents_and_their_run_and_what_went_wrong(
    installation: Fleet, monitor: Flower, browser: webdriver.Chrome, look: Callable[[str], None]
) -> None:
    run = installation.orchestrator.submit("head=branch | [a=branch, b=branch] | end=gather | last=quiet", {})
    assert run.wait(60).state == "succeeded"
    failed = installation.orchestrator.submit("held", {"seconds": "soon"})
    assert failed.wait(60).state == "failed"
    monitor.until_state(task_id_of(installation, failed.id), "FAILURE")
    monitor.until_state(task_id_of(installation, run.id, "last"), "SUCCESS")
    look("/tasks")
    row = found(browser, "#tasks-table tbody tr", "agent.gather")
    assert (run.id in row.text, "SUCCESS" in row.text) == (True, True)
    row = found(browser, "#tasks-table tbody tr", "agent.held")
    assert "agent_failed: ValueError: could not convert string to float: 'soon'" in row.text
    picture(browser, "tasks")


def test_the_link_to_the_run_lists_its_tasks_and_no_others(
    installation: Fleet, monitor: Flower, browser: webdriver.Chrome, look: Callable[[str], None]
) -> None:
    run, other = installation.orchestrator.submit_many("a=quiet | b=quiet", [{}, {}])
    for each in (run, other):
        assert each.wait(60).state == "succeeded"
        monitor.until_state(task_id_of(installation, each.id, "b"), "SUCCESS")
    look(f"/task/{task_id_of(installation, run.id, 'b')}")
    browser.get(str(found(browser, f"a[title='{run.id}']").get_attribute("href")))
    found(browser, ".dataTables_info", "of 2 tasks")
    assert {run.id in row.text for row in browser.find_elements(By.CSS_SELECTOR, "#tasks-table tbody tr")} == {True}


def test_a_click_on_terminate_cancels_the_run(
    installation: Fleet, monitor: Flower, browser: webdriver.Chrome, look: Callable[[str], None]
) -> None:
    run = installation.orchestrator.submit("held", {"seconds": 600})
    task_id = task_id_of(installation, run.id)
    monitor.until_state(task_id, "STARTED")
    look(f"/task/{task_id}")
    picture(browser, "task")
    found(browser, "#task-terminate").click()
    installation.until(lambda: run.state == "cancelled", "the run is cancelled")
    found(browser, "body", "its run is cancelled")
    monitor.until_state(task_id, "REVOKED")


def test_a_click_on_revoke_cancels_a_run_that_waits_for_a_retry(
    installation: Fleet, monitor: Flower, browser: webdriver.Chrome, look: Callable[[str], None]
) -> None:
    # It waits for as long as it takes to open its page.
    task = TaskDefinition(id="flaky", agent="flaky", retry=RetryPolicy(first_delay=timedelta(minutes=10)))
    run = installation.orchestrator.submit(WorkflowDefinition(tasks=(task,)), {"failures": 3})
    task_id = task_id_of(installation, run.id)
    monitor.until_state(task_id, "RETRY")
    look(f"/task/{task_id}")
    found(browser, "#task-revoke").click()
    installation.until(lambda: run.state == "cancelled", "the run is cancelled")


def test_the_page_of_a_worker_opens(monitor: Flower, browser: webdriver.Chrome, look: Callable[[str], None]) -> None:
    look(f"/worker/{monitor.worker}")
    found(browser, "body", "Max concurrency")
    picture(browser, "worker")
    errors = [
        entry
        for entry in browser.get_log("browser")
        if entry["level"] == "SEVERE" and "favicon" not in entry["message"]
    ]
    assert [entry["message"] for entry in errors if "401" not in entry["message"]] == []
