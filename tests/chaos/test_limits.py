"""Row 12: eight processes and one provider that counts: its limit is used, and not passed, whatever becomes of either.

The provider is the emulator, over HTTP, and all figures are what it has counted, by its own clock. The processes use the SDKs.
A machine that has no time for them for a while makes no difference to what is asserted in the short form: what was not used
is saved up and used later, as long as a burst is not full, and a phase may last longer until it is.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import servers
from chaos.book import Book
from chaos.callers import Callers, Counts, Job
from chaos.figures import report
from chaos.forms import LONG, PATIENCE_SECONDS, QUICK, form
from chaos.provider import Provider, Watch
from fleet import broker_url, fleet

from worker.emulator import Emulator, Latency

PROCESSES = 8
#: Calls at a time in each: more than are in flight, so that some always wait.
LANES = 8
CALLS_PER_SECOND = 20
LATENCY = Latency(shape="uniform", low=0.1, high=0.3)
#: How much the provider lets pass at once, and is said to.
BURST_SECONDS = 60
#: Where a refusal has to be waited for: the burst is what passes before it.
SHORT_BURST_SECONDS = form(short=10, long=60)
#: How long limits and estimates may be learned, and how long a phase lasts after that.
LEARNING_SECONDS = 5
STEADY_SECONDS = form(short=8, long=45)
#: How long it may last until what a slow machine has left unused is used.
MOST_SECONDS = 300
OUTAGE_SECONDS = form(short=4, long=30)
KILLS = form(short=2, long=4)
BETWEEN_KILLS_SECONDS = form(short=1, long=5)

LOW = Provider("anthropic:emulated-small", "input_tokens", "input_tokens_per_minute", 1 / 3)
HIGH = Provider("openai:emulated-small", "tokens", "tokens_per_minute", 3)
LIMIT = CALLS_PER_SECOND * 60 * LOW.tokens
#: What those who died were waiting for goes to others half a minute later. The short form does not wait for that.
KEPT_FOR_THE_DEAD = form(short=KILLS * LANES * LOW.tokens, long=0)
#: Of the fleet: agent runs that ask so many times at once, and what each time takes of the limit.
CALLS_OF_A_RUN = 5
FLEET_RUNS = form(short=30, long=120)
FLEET_TOKENS = 32
FLEET_LIMIT = 10 * 60 * FLEET_TOKENS
#: Wake-ups for each call. In the short form many calls come before estimates are known, when who does not fit asks again.
MOST_WAKES = form(short=2.0, long=1.2)
#: The heaviest call, and what came in between two looks at the provider's count.
ROUNDING = 3 * LOW.tokens


@pytest.fixture(scope="module")
def callers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callers]:
    with fleet(tmp_path_factory.mktemp("callers")) as installation:
        made = Callers(installation.environment, PROCESSES, KILLS)
        yield made
        made.close()


@dataclass
class Scene:
    """Callers at work, the provider that they call, and what their limiter has of it."""

    provider: Provider
    emulator: Emulator
    watch: Watch
    callers: Callers
    book: Book
    burst_seconds: float
    #: When they began.
    began: float = 0.0

    def halve(self, *, announced: bool) -> float:
        """Give the provider half of its limit; gives when."""
        self.emulator.set_limits([self.provider.limit(LIMIT // 2, self.burst_seconds)], announced=announced)
        return self.watch.pause(0)

    def settled(self) -> float:
        """Let the time pass in which something new may be learned; gives when that is over."""
        return self.watch.pause(LEARNING_SECONDS)

    def used(self, begin: float, per_minute: int = LIMIT, kept: int = 0) -> float:
        """Let a phase pass, and give the share of the limit that was used since it began, or is `kept` for others."""
        end = self.watch.pause(begin + STEADY_SECONDS - self.watch.now)
        while (share := self.watch.share(begin, end, per_minute, kept)) < 0.95 and end < begin + MOST_SECONDS:
            end = self.watch.pause(0.2)
        assert share >= 0.95
        return share

    def end(self) -> Counts:
        """Let the callers end."""
        counts = self.callers.end()
        assert counts.failures == []
        return counts


@contextlib.contextmanager
def scene(
    callers: Callers, provider: Provider, folder: Path, redis_url: str, *, burst_seconds: float = BURST_SECONDS
) -> Generator[Scene]:
    """Let all callers begin on a provider that nobody has called yet.

    With a short burst, the limiter has known it for two minutes: what is young is not doubted.
    """
    models_file = folder / "models.toml"
    models_file.write_text(provider.rules(LIMIT, burst_seconds, PROCESSES * LANES))
    book = Book(redis_url, f"limits-{secrets.token_hex(5)}", models_file, provider.model)
    with provider.serving(LIMIT, burst_seconds, LATENCY) as (emulator, watch), contextlib.ExitStack() as otherwise:
        otherwise.callback(callers.close)
        environment = {
            **emulator.env,
            "NIGHTFLEET_REDIS_URL": redis_url,
            "NIGHTFLEET_NAMESPACE": book.namespace,
            "NIGHTFLEET_MODELS_FILE": str(models_file),
        }
        if burst_seconds < BURST_SECONDS:
            book.visit(emulator.env, -120)
        callers.prepare(Job(environment, provider.model, LANES, provider.prompt_bytes, provider.max_output_tokens))
        began = watch.pause(0)
        callers.begin()
        yield Scene(provider, emulator, watch, callers, book, burst_seconds, began)
        otherwise.pop_all()  # they have ended, and wait for another job
    book.forget()


@pytest.mark.scenario
@pytest.mark.timeout(form(short=PATIENCE_SECONDS, long=900))
def test_a_limit_is_used_and_not_passed_and_half_of_it_as_soon_as_headers_say_so(
    callers: Callers, tmp_path: Path
) -> None:
    with scene(callers, LOW, tmp_path, broker_url("redis")) as at_work:
        before = at_work.used(at_work.began)
        halved = at_work.halve(announced=True)
        assert at_work.watch.excess(at_work.began, halved, LIMIT) <= ROUNDING
        after = at_work.used(at_work.settled(), LIMIT // 2)
        counts = at_work.end()
        assert at_work.book.left_behind() == []
        assert at_work.watch.refused == 0
        assert counts.wakes <= MOST_WAKES
        report(
            12,
            "halved, announced",
            f"{LOW}: {before:.1%} used, {after:.1%} of the half from 5 s later on; no refusal in "
            f"{counts.requests['answered']:,} calls, {counts.wakes:.2f} wake-ups each",
        )


@pytest.mark.scenario
@pytest.mark.timeout(form(short=PATIENCE_SECONDS, long=900))
def test_a_limit_that_is_halved_and_nobody_says_so_costs_one_refusal(callers: Callers, tmp_path: Path) -> None:
    with scene(callers, HIGH, tmp_path, broker_url("redis"), burst_seconds=SHORT_BURST_SECONDS) as at_work:
        at_work.used(at_work.began)
        assert at_work.watch.refused == 0
        halved = at_work.halve(announced=False)
        at_work.watch.first("refused", halved)
        # In the short form, on a machine that may stand still meanwhile, what was on its way may come later than that.
        begin = at_work.settled() if LONG else at_work.watch.quiet("refused", LEARNING_SECONDS)
        refused = at_work.watch.refused
        after = at_work.used(begin, LIMIT // 2)
        counts = at_work.end()
        # Those that were on their way when the first was refused count once: a second time would have halved the half.
        assert at_work.book.state(HIGH.configured).trust == 0.5
        assert at_work.watch.refused == refused <= PROCESSES * LANES
        assert at_work.book.left_behind() == []
        assert counts.wakes <= MOST_WAKES
        report(
            12,
            "halved, not announced",
            f"{HIGH}: refused once, {refused} calls that were on their way; {after:.1%} of the half used from 5 s later "
            f"on; {counts.wakes:.2f} wake-ups for each of {counts.requests['answered']:,} calls",
        )


@pytest.mark.scenario
@pytest.mark.timeout(form(short=PATIENCE_SECONDS, long=900))
def test_without_redis_no_call_is_sent_and_with_an_empty_one_no_more_than_comes_in(
    callers: Callers, tmp_path: Path
) -> None:
    with servers.private_redis() as server, scene(callers, LOW, tmp_path, server.url) as at_work:
        before = at_work.used(at_work.began)
        server.stop(immediate=True)
        # What was let through before is still on its way.
        half = at_work.watch.quiet("tokens", OUTAGE_SECONDS / 2)
        away = at_work.watch.pause(OUTAGE_SECONDS / 2)
        sent, _ = at_work.watch.tokens(half, away)
        server.start()
        back = at_work.watch.first("tokens", away)
        after = at_work.used(back)
        assert at_work.watch.excess(away, at_work.watch.now, LIMIT) <= ROUNDING
        counts = at_work.end()
        assert sent == 0
        assert at_work.book.left_behind() == []
        assert at_work.watch.refused == 0
        assert counts.wakes <= MOST_WAKES
        report(
            12,
            "no Redis",
            f"{LOW}: {before:.1%} used, Redis gone for {OUTAGE_SECONDS} s and back without its data: none sent meanwhile, "
            f"{after:.1%} used since; no refusal in {counts.requests['answered']:,} calls, {counts.wakes:.2f} wake-ups each",
        )


@pytest.mark.scenario
@pytest.mark.timeout(form(short=PATIENCE_SECONDS, long=900))
def test_what_killed_processes_held_or_waited_for_comes_back(callers: Callers, tmp_path: Path) -> None:
    with scene(callers, HIGH, tmp_path, broker_url("redis")) as at_work:
        at_work.settled()
        for _ in range(KILLS):
            callers.kill_one()
            at_work.watch.pause(BETWEEN_KILLS_SECONDS)
        share = at_work.used(at_work.began, kept=KEPT_FOR_THE_DEAD)
        counts = at_work.end()
        # Their leases end a minute after they died, and their places in the line half a minute after their time.
        at_work.book.visit(at_work.emulator.env, 95)
        assert at_work.book.left_behind() == []
        assert at_work.watch.refused == 0
        assert counts.wakes <= MOST_WAKES
        report(
            12,
            "killed processes",
            f"{HIGH}: {KILLS} of {PROCESSES} killed and replaced: {share:.1%} used, no refusal in "
            f"{counts.requests['answered']:,} calls of the others, {counts.wakes:.2f} wake-ups each; nothing of the dead is "
            "left after their leases",
        )


@pytest.mark.scenario
@pytest.mark.timeout(form(short=PATIENCE_SECONDS, long=900))
def test_eight_workers_use_a_limit_and_are_never_refused_while_workers_are_killed(tmp_path: Path) -> None:
    models_file = tmp_path / "models.toml"
    models_file.write_text(HIGH.rules(FLEET_LIMIT, BURST_SECONDS, PROCESSES * LANES))
    agents = Path(__file__).parents[1] / "model_agents"
    with (
        HIGH.serving(FLEET_LIMIT, BURST_SECONDS, LATENCY) as (emulator, watch),
        fleet(
            tmp_path, agents_path=agents, models_file=models_file, redis_url=broker_url("redis"), **QUICK
        ) as installation,
    ):
        installation.environment |= emulator.env
        workers = [installation.start_worker() for _ in range(PROCESSES)]
        book = Book(broker_url("redis"), installation.environment["NIGHTFLEET_NAMESPACE"], models_file, HIGH.model)
        # They begin with nothing saved up: as with a Redis that has forgotten everything.
        began = watch.pause(0)
        book.forget()
        asked = [{"word": f"row {number}", "calls": CALLS_OF_A_RUN} for number in range(FLEET_RUNS)]
        installation.orchestrator.submit_many("fan", asked)
        watch.first("tokens")
        begin = watch.pause(LEARNING_SECONDS)
        tokens = FLEET_RUNS * CALLS_OF_A_RUN * FLEET_TOKENS
        installation.until(lambda: watch.seen[-1].tokens >= 0.7 * tokens, "the fleet calls", 300)
        share = watch.share(begin, watch.pause(1), FLEET_LIMIT)
        if LONG:  # the short form is over before what a slow machine has left unused can be used
            assert share >= 0.95
        # Its places are kept for those who die, and what they had begun waits for a lease.
        installation.kill(workers[0])
        installation.start_worker()
        installation.finish()
        assert watch.excess(began, watch.now, FLEET_LIMIT) <= ROUNDING
        assert installation.query("SELECT state, count(*) FROM run GROUP BY 1") == [("succeeded", FLEET_RUNS)]
        book.visit(emulator.env, 95)
        assert book.left_behind() == []
        assert watch.refused == 0
        report(
            12,
            f"{PROCESSES} workers",
            f"{FLEET_RUNS} agents with {CALLS_OF_A_RUN} calls at once: {share:.1%} used from 5 s on, then a worker killed; "
            f"no refusal in {emulator.bill.calls:,} calls, nothing of the dead left after its leases",
        )
        book.forget()
