"""The circuit breaker: opens on failures of the LLM alone, probes one by one, and no caller decides for others."""

import asyncio
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from src.circuit_breaker import MAX_TURNS, MAX_UPSTREAM_WAIT, CircuitBreaker, State
from src.errors import (
    AnswerUnusable,
    CircuitOpen,
    ContentBlocked,
    ModelFailed,
    RequestRejected,
    TimedOut,
    UpstreamTimedOut,
)

THRESHOLD = 3
RECOVERY = 30.0
OUTAGES = [ModelFailed(), UpstreamTimedOut(), ModelFailed(upstream_wait=77.0)]
BY_CONTENT = [AnswerUnusable(), RequestRejected(), TimedOut()]
NEUTRAL = [asyncio.CancelledError(), GeneratorExit(), ValueError("a bug")]
CALLERS = ["a", "b", "c", "d"]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(failure_threshold=THRESHOLD, recovery_timeout=RECOVERY, clock=clock)


def end(call: AbstractContextManager[None], outcome: BaseException | None) -> None:
    """End an entered call; what it ended with has to come out of it."""
    if outcome is None:
        call.__exit__(None, None, None)
    else:
        assert not call.__exit__(type(outcome), outcome, None)


def make(breaker: CircuitBreaker, outcome: BaseException | None = None, caller: str = "a") -> None:
    call = breaker.call(caller)
    call.__enter__()
    end(call, outcome)


def state(breaker: CircuitBreaker) -> State:
    """As it is now: to the type checker a property stays what it was."""
    return breaker.state


def opened(breaker: CircuitBreaker) -> CircuitBreaker:
    for _ in range(THRESHOLD):
        make(breaker, ModelFailed())
    return breaker


@pytest.mark.parametrize("failure", OUTAGES)
def test_it_opens_with_the_last_of_so_many_failures_in_a_row(breaker: CircuitBreaker, failure: Exception) -> None:
    for _ in range(THRESHOLD - 1):
        make(breaker, failure)
    make(breaker)
    for _ in range(THRESHOLD):
        assert state(breaker) == State.CLOSED
        make(breaker, failure)
    with pytest.raises(CircuitOpen):
        make(breaker)


@pytest.mark.parametrize("outcome", [*NEUTRAL, ContentBlocked()])
def test_what_the_llm_is_not_to_blame_for_never_opens_it(breaker: CircuitBreaker, outcome: BaseException) -> None:
    for _ in range(10 * THRESHOLD):
        make(breaker, outcome)
    assert state(breaker) == State.CLOSED


def test_the_wait_it_names_is_the_wait_it_needs(breaker: CircuitBreaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += 12
    with pytest.raises(CircuitOpen) as refused:
        make(breaker)
    assert refused.value.retry_after == RECOVERY - 12
    clock.now += RECOVERY - 12
    make(breaker)
    assert state(breaker) == State.CLOSED


@pytest.mark.parametrize(("asked", "kept"), [(5.0, RECOVERY), (77.0, 77.0), (1e9, MAX_UPSTREAM_WAIT)])
def test_the_providers_own_wait_lengthens_the_recovery(breaker: CircuitBreaker, asked: float, kept: float) -> None:
    for _ in range(THRESHOLD):
        make(breaker, ModelFailed(upstream_wait=asked))
    with pytest.raises(CircuitOpen) as refused:
        make(breaker)
    assert refused.value.retry_after == kept


def test_one_probe_at_a_time(breaker: CircuitBreaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += RECOVERY
    probe = breaker.call("a")
    probe.__enter__()
    for _ in range(200):
        with pytest.raises(CircuitOpen):
            make(breaker)
    end(probe, None)
    make(breaker)
    assert breaker.stats().refused == 200


@pytest.mark.parametrize("outcome", NEUTRAL)
def test_a_probe_that_tells_nothing_frees_its_place(
    breaker: CircuitBreaker, clock: Clock, outcome: BaseException
) -> None:
    opened(breaker)
    clock.now += RECOVERY
    make(breaker, outcome)
    assert state(breaker) == State.HALF_OPEN
    make(breaker)
    assert state(breaker) == State.CLOSED


def test_a_probe_that_hangs_gives_way_after_the_recovery_time_and_is_not_heard_any_more(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    opened(breaker)
    clock.now += RECOVERY
    hanging, second = breaker.call("a"), breaker.call("a")
    hanging.__enter__()
    clock.now += RECOVERY
    second.__enter__()
    end(hanging, ModelFailed())
    assert state(breaker) == State.HALF_OPEN, "the second probe decides"
    end(second, ModelFailed())
    assert state(breaker) == State.OPEN


def test_a_failed_probes_own_time_counts_as_recovery(breaker: CircuitBreaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += RECOVERY
    probe = breaker.call("a")
    probe.__enter__()
    clock.now += 20
    end(probe, TimedOut())
    with pytest.raises(CircuitOpen) as refused:
        make(breaker)
    assert refused.value.retry_after == RECOVERY - 20


def test_an_llm_slower_than_the_recovery_time_closes_the_circuit_when_it_answers(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    opened(breaker)
    clock.now += RECOVERY
    slow = breaker.call("a")
    slow.__enter__()
    clock.now += RECOVERY
    later = breaker.call("a")
    later.__enter__()
    clock.now += 1
    end(slow, None)
    assert state(breaker) == State.CLOSED
    end(later, ModelFailed())
    assert breaker.stats().failures == 0, "it began before the circuit closed"


def test_a_call_from_before_the_opening_says_nothing_of_the_state_after(breaker: CircuitBreaker, clock: Clock) -> None:
    calls = [breaker.call("a") for _ in range(2 * THRESHOLD)]
    for call in calls:
        call.__enter__()
    opened(breaker)
    end(calls[0], None)
    assert state(breaker) == State.OPEN
    clock.now += RECOVERY
    make(breaker)
    for call in calls[1:]:
        end(call, ModelFailed())
    assert state(breaker) == State.CLOSED


@pytest.mark.parametrize("failure", BY_CONTENT)
@pytest.mark.parametrize("threshold", [1, 2, THRESHOLD])
def test_what_content_can_cause_opens_it_by_several_callers_only(
    clock: Clock, failure: Exception, threshold: int
) -> None:
    breaker = CircuitBreaker(failure_threshold=threshold, recovery_timeout=RECOVERY, clock=clock)
    for _ in range(10):
        make(breaker, failure, "hostile")
    assert (state(breaker), breaker.stats().failures) == (State.CLOSED, 1)
    for number in range(max(threshold, 2) - 1):
        assert state(breaker) == State.CLOSED
        make(breaker, failure, f"honest {number}")
    assert state(breaker) == State.OPEN


def test_one_callers_content_adds_one_to_an_outage(breaker: CircuitBreaker) -> None:
    make(breaker, ModelFailed(), "hostile")
    for _ in range(10):
        make(breaker, TimedOut(), "hostile")
    assert (state(breaker), breaker.stats().failures) == (State.CLOSED, 2)
    make(breaker, ModelFailed(), "hostile")
    assert state(breaker) == State.OPEN


def test_after_a_success_content_counts_again(breaker: CircuitBreaker) -> None:
    for caller in ("a", "b"):
        make(breaker, TimedOut(), caller)
    make(breaker)
    for caller in ("a", "b"):
        make(breaker, TimedOut(), caller)
    assert state(breaker) == State.CLOSED


@pytest.mark.parametrize("failure", BY_CONTENT)
def test_a_probe_that_fails_by_its_content_leaves_the_next_one_to_others(
    breaker: CircuitBreaker, clock: Clock, failure: Exception
) -> None:
    opened(breaker)
    clock.now += RECOVERY
    make(breaker, failure, "hostile")
    assert state(breaker) == State.HALF_OPEN
    with pytest.raises(CircuitOpen) as refused:
        make(breaker, None, "hostile")
    assert refused.value.retry_after == RECOVERY
    make(breaker, None, "honest")
    assert state(breaker) == State.CLOSED


@pytest.mark.parametrize("failure", BY_CONTENT)
def test_probes_of_several_callers_that_fail_by_content_open_it_again(
    breaker: CircuitBreaker, clock: Clock, failure: Exception
) -> None:
    opened(breaker)
    clock.now += RECOVERY
    for caller in ("a", "b", "c"):
        assert state(breaker) == State.HALF_OPEN
        make(breaker, failure, caller)
    assert state(breaker) == State.OPEN


def test_who_lets_probes_hang_or_leaves_them_has_one_turn_while_others_wait(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    opened(breaker)
    clock.now += RECOVERY
    for _ in range(10):
        make(breaker, asyncio.CancelledError(), "hostile")
        hanging = breaker.call("hostile")
        hanging.__enter__()
        with pytest.raises(CircuitOpen):
            make(breaker, None, "honest")
        end(hanging, asyncio.CancelledError())
        clock.now += RECOVERY / 10
    with pytest.raises(CircuitOpen) as refused:
        make(breaker, None, "hostile")
    assert refused.value.retry_after == pytest.approx(RECOVERY)
    make(breaker, None, "honest")
    assert state(breaker) == State.CLOSED


def test_who_is_alone_need_not_wait_for_others(breaker: CircuitBreaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += RECOVERY
    hanging = [breaker.call("a") for _ in range(3)]
    for probe in hanging:
        probe.__enter__()
        with pytest.raises(CircuitOpen) as refused:
            make(breaker)
        assert refused.value.retry_after == RECOVERY
        clock.now += RECOVERY
    make(breaker)
    assert state(breaker) == State.CLOSED


def test_what_it_remembers_of_callers_is_bounded(clock: Clock) -> None:
    breaker = CircuitBreaker(failure_threshold=1000, recovery_timeout=RECOVERY, clock=clock)
    for number in range(900):
        make(breaker, TimedOut(), str(number))
    assert len(breaker._blamed) == 900
    for _ in range(100):
        make(breaker, ModelFailed())
    assert state(breaker) == State.OPEN
    clock.now += RECOVERY
    for number in range(3 * MAX_TURNS):
        make(breaker, asyncio.CancelledError(), str(number))
    assert len(breaker._turns) <= MAX_TURNS
    assert not breaker._blamed
    make(breaker)
    assert not breaker._turns


@dataclass(frozen=True)
class Call:
    """A call under way: whose, when it began, in which life of the circuit (each change begins one), which probe."""

    caller: str
    manager: AbstractContextManager[None]
    began: float
    life: int
    probe: int


@dataclass
class Turn:
    """A caller's time to probe: until when it lasts, until when the caller has to leave probing to others after it."""

    lasts_until: float
    failed_at: float | None = None
    has_kept_others_waiting: bool = False

    def bars_until(self, now: float) -> float:
        if self.failed_at is not None:
            return self.failed_at + RECOVERY if self.has_kept_others_waiting else self.lasts_until
        if now >= self.lasts_until and self.has_kept_others_waiting:
            return self.lasts_until + RECOVERY
        return now


class BreakerModel(RuleBasedStateMachine):
    """Interleaved calls against a model in plain words: a circuit is closed, or open until a time, or probed."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = CircuitBreaker(failure_threshold=THRESHOLD, recovery_timeout=RECOVERY, clock=self.clock)
        self.calls: list[Call] = []
        self.life = 0
        self.failures_in_a_row = 0
        self.blamed: set[str] = set()
        self.open_until: float | None = None
        self.probe_until: float | None = None
        self.turns: dict[str, Turn] = {}
        self.last_to_probe: str | None = None
        self.probes = 0
        self.openings = 0
        self.refusals = 0

    def may_pass(self, caller: str) -> bool:
        if self.open_until is None:
            return True
        blocked_until = self.open_until if self.probe_until is None else self.probe_until
        if caller in self.turns:
            blocked_until = max(blocked_until, self.turns[caller].bars_until(self.clock.now))
        return self.clock.now >= blocked_until

    def begin_life(self) -> None:
        self.life += 1
        self.probe_until = self.last_to_probe = None
        self.turns.clear()
        self.blamed.clear()

    @rule(seconds=st.sampled_from([0.0, 0.5, 7.0, RECOVERY / 2, RECOVERY, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(caller=st.sampled_from(CALLERS))
    def a_call_begins(self, caller: str) -> None:
        manager = self.breaker.call(caller)
        if not self.may_pass(caller):
            with pytest.raises(CircuitOpen) as refused:
                manager.__enter__()
            assert refused.value.retry_after > 0  # type: ignore[operator]
            self.refusals += 1
            if self.last_to_probe not in (None, caller):
                self.turns[self.last_to_probe].has_kept_others_waiting = True
            return
        manager.__enter__()
        if self.open_until is not None:
            self.probes += 1
            if caller not in self.turns or self.clock.now >= self.turns[caller].lasts_until:
                self.turns[caller] = Turn(self.clock.now + RECOVERY)
            self.last_to_probe = caller
            self.probe_until = self.turns[caller].lasts_until
        self.calls.append(Call(caller, manager, self.clock.now, self.life, self.probes))

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), outcome=st.sampled_from([None, ContentBlocked(), *OUTAGES, *BY_CONTENT, *NEUTRAL]))
    def a_call_ends(self, data: st.DataObject, outcome: BaseException | None) -> None:
        call = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        end(call.manager, outcome)
        if call.life != self.life:
            return
        if outcome is None or isinstance(outcome, ContentBlocked):
            self.failures_in_a_row = 0
            self.blamed.clear()
            if self.open_until is not None:
                self.open_until = None
                self.begin_life()
        elif call.probe != self.probes:
            return  # another probe has taken its place
        elif outcome in OUTAGES:
            self.failures_in_a_row += 1
            if self.open_until is not None or self.failures_in_a_row >= THRESHOLD:
                self.it_opens(call, outcome.upstream_wait if isinstance(outcome, ModelFailed) else 0)
        elif outcome in BY_CONTENT:
            self.failures_in_a_row += call.caller not in self.blamed
            self.blamed.add(call.caller)
            self.probe_until = None
            if self.last_to_probe is not None:
                self.turns[self.last_to_probe].failed_at = self.clock.now
            counted = self.failures_in_a_row if self.open_until is None else len(self.blamed)
            if counted >= THRESHOLD:
                self.it_opens(call, 0)
        else:
            self.probe_until = None

    def it_opens(self, call: Call, asked: float) -> None:
        since = call.began if self.open_until is not None else self.clock.now
        self.open_until = max(since + RECOVERY, self.clock.now + asked)
        self.openings += 1
        self.begin_life()

    @invariant()
    def it_tells_the_state_as_the_model_has_it(self) -> None:
        stats = self.breaker.stats()
        assert (stats.opened, stats.refused) == (self.openings, self.refusals)
        assert (stats.state == State.CLOSED) == (self.open_until is None)
        if stats.state == State.OPEN:
            assert not any(self.may_pass(caller) for caller in CALLERS)

    @invariant()
    def it_recovers_within_one_recovery_time_of_the_provider(self) -> None:
        """Whatever is still under way: a new caller who comes after the longest wait gets through."""
        if self.open_until is not None:
            latest = max(self.open_until, self.probe_until or 0)
            assert latest <= self.clock.now + max(RECOVERY, 77.0)

    @invariant()
    def content_alone_counts_once_a_caller(self) -> None:
        assert len(self.blamed) < THRESHOLD


class OneHostileCaller(RuleBasedStateMachine):
    """One caller does all that a caller can, while the LLM works for everybody else."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = CircuitBreaker(failure_threshold=2, recovery_timeout=RECOVERY, clock=self.clock)
        self.calls: list[AbstractContextManager[None]] = []
        self.shut_since: float | None = None  # for honest callers who try each second

    @rule()
    def there_was_an_outage(self) -> None:
        if self.breaker.state == State.CLOSED:
            with suppress(CircuitOpen):  # at the second, where the hostile one's failure counts as well
                for _ in range(2):
                    make(self.breaker, ModelFailed(), "honest")

    @rule()
    def the_hostile_one_calls(self) -> None:
        call = self.breaker.call("hostile")
        with suppress(CircuitOpen):
            call.__enter__()
            self.calls.append(call)

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), outcome=st.sampled_from([*BY_CONTENT, *NEUTRAL]))
    def the_hostile_call_fails(self, data: st.DataObject, outcome: BaseException) -> None:
        before = self.breaker.stats().opened
        end(self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1))), outcome)
        assert self.breaker.stats().opened == before, "it never opens the circuit"

    @rule(seconds=st.integers(1, 40), is_quick=st.booleans())
    def time_passes(self, seconds: int, is_quick: bool) -> None:
        """Let time pass. If it is quick, the hostile caller calls first whenever it may, and lets the call hang."""
        for _ in range(seconds):
            self.clock.now += 1
            if is_quick:
                self.the_hostile_one_calls()
            self.an_honest_one_calls()

    @rule()
    def an_honest_one_calls(self) -> None:
        try:
            make(self.breaker, None, "honest")
        except CircuitOpen:
            self.shut_since = self.clock.now if self.shut_since is None else self.shut_since
            # The recovery time of the outage, one turn of the hostile caller, and no more.
            assert self.clock.now - self.shut_since <= 2 * RECOVERY
        else:
            self.shut_since = None


BreakerModel.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestBreakerModel = BreakerModel.TestCase
OneHostileCaller.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestOneHostileCaller = OneHostileCaller.TestCase
