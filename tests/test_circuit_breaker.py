"""The circuit breaker: opens on failures of the LLM alone, probes one by one, and always finds back."""

import asyncio
from contextlib import AbstractContextManager
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from src.circuit_breaker import MAX_UPSTREAM_WAIT, CircuitBreaker, State
from src.errors import CircuitOpen, ContentBlocked, ModelFailed, RequestRejected, TimedOut

THRESHOLD = 3
RECOVERY = 30.0
FAILURES = [ModelFailed(), TimedOut(), ModelFailed(upstream_wait=77.0)]
NEUTRAL = [asyncio.CancelledError(), GeneratorExit(), RequestRejected(), ValueError("a bug")]


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


def make(breaker: CircuitBreaker, outcome: BaseException | None = None) -> None:
    call = breaker.call()
    call.__enter__()
    end(call, outcome)


def state(breaker: CircuitBreaker) -> State:
    """As it is now: to the type checker a property stays what it was."""
    return breaker.state


def opened(breaker: CircuitBreaker) -> CircuitBreaker:
    for _ in range(THRESHOLD):
        make(breaker, ModelFailed())
    return breaker


@pytest.mark.parametrize("failure", FAILURES)
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
    probe = breaker.call()
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
    hanging, second = breaker.call(), breaker.call()
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
    probe = breaker.call()
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
    slow = breaker.call()
    slow.__enter__()
    clock.now += RECOVERY
    later = breaker.call()
    later.__enter__()
    clock.now += 1
    end(slow, None)
    assert state(breaker) == State.CLOSED
    end(later, ModelFailed())
    assert breaker.stats().failures == 0, "it began before the circuit closed"


def test_a_call_from_before_the_opening_says_nothing_of_the_state_after(breaker: CircuitBreaker, clock: Clock) -> None:
    calls = [breaker.call() for _ in range(2 * THRESHOLD)]
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


@dataclass(frozen=True)
class Call:
    """A call under way: when it began, in which life of the circuit (it begins anew with each change), which probe."""

    manager: AbstractContextManager[None]
    began: float
    life: int
    probe: int


class BreakerModel(RuleBasedStateMachine):
    """Interleaved calls against a model in plain words: a circuit is closed, or open until a time, or probed."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = CircuitBreaker(failure_threshold=THRESHOLD, recovery_timeout=RECOVERY, clock=self.clock)
        self.calls: list[Call] = []
        self.life = 0
        self.failures_in_a_row = 0
        self.open_until: float | None = None
        self.probe_began: float | None = None
        self.probes = 0
        self.openings = 0
        self.refusals = 0

    def may_pass(self) -> bool:
        if self.open_until is None:
            return True
        if self.probe_began is not None:
            return self.clock.now >= self.probe_began + RECOVERY
        return self.clock.now >= self.open_until

    @rule(seconds=st.sampled_from([0.0, 0.5, 7.0, RECOVERY / 2, RECOVERY, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def a_call_begins(self) -> None:
        manager = self.breaker.call()
        if not self.may_pass():
            with pytest.raises(CircuitOpen) as refused:
                manager.__enter__()
            assert refused.value.retry_after > 0  # type: ignore[operator]
            self.refusals += 1
            return
        manager.__enter__()
        if self.open_until is not None:
            self.probes += 1
            self.probe_began = self.clock.now
        self.calls.append(Call(manager, self.clock.now, self.life, self.probes))

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), outcome=st.sampled_from([None, ContentBlocked(), *FAILURES, *NEUTRAL]))
    def a_call_ends(self, data: st.DataObject, outcome: BaseException | None) -> None:
        call = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        end(call.manager, outcome)
        if call.life != self.life:
            return
        if outcome is None or isinstance(outcome, ContentBlocked):
            self.failures_in_a_row = 0
            if self.open_until is not None:
                self.open_until = self.probe_began = None
                self.life += 1
        elif call.probe != self.probes:
            return  # another probe has taken its place
        elif outcome in FAILURES:
            self.failures_in_a_row += 1
            if self.open_until is not None or self.failures_in_a_row >= THRESHOLD:
                since = call.began if self.open_until is not None else self.clock.now
                asked = outcome.upstream_wait if isinstance(outcome, ModelFailed) else 0
                self.open_until = max(since + RECOVERY, self.clock.now + asked)
                self.probe_began = None
                self.openings += 1
                self.life += 1
        else:
            self.probe_began = None

    @invariant()
    def it_tells_the_state_as_the_model_has_it(self) -> None:
        stats = self.breaker.stats()
        assert (stats.opened, stats.refused) == (self.openings, self.refusals)
        assert (stats.state == State.CLOSED) == (self.open_until is None)
        if stats.state == State.OPEN:
            assert not self.may_pass()

    @invariant()
    def it_recovers_within_one_recovery_time_of_the_provider(self) -> None:
        """Whatever is still under way: a caller who comes after the longest wait gets through."""
        if self.open_until is not None:
            latest = max(self.open_until, (self.probe_began or 0) + RECOVERY)
            assert latest <= self.clock.now + max(RECOVERY, 77.0)


BreakerModel.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestBreakerModel = BreakerModel.TestCase
