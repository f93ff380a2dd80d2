"""The circuit breaker in front of the LLM (M. Nygard, Release It!, 2nd ed., ch. 5).

    Closed ──(so many failures in a row)──→ Open ──(the recovery time is over)──→ Half-open
      ↑                                      ↑                                       │
      └──────────── its probe succeeds ──────┼───────────────────────────────────────┤
                                             └───────────── its probe fails ─────────┘

Nothing in here awaits, so on one event loop every step is atomic and no lock is needed.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from src.errors import CircuitOpen, ContentBlocked, ModelFailed, RequestRejected, TimedOut

MAX_UPSTREAM_WAIT = 300.0  # seconds that a provider's own Retry-After may lengthen an opening to


class State(StrEnum):
    """Where the circuit stands."""

    CLOSED = "closed"  # calls pass
    OPEN = "open"  # calls are refused
    HALF_OPEN = "half_open"  # one call passes, as a probe


@dataclass(frozen=True, slots=True)
class BreakerStats:
    """What the breaker has seen since the process started.

    Attributes:
        failures: In a row, up to now.
        opened: How often the circuit opened, a failed probe included.
        refused: Calls refused without being made.
    """

    state: State
    failures: int
    opened: int
    refused: int


class CircuitBreaker:
    """Refuses calls while the LLM fails, and finds out with one call at a time when it works again.

    Only failures of the LLM count (`ModelFailed`, `TimedOut`); a refusal to answer (`ContentBlocked`) shows that it
    works. A call that ends in any other way, by cancellation above all, says nothing: if it was the probe, the next
    call is.

    Args:
        failure_threshold: Failures in a row that open the circuit.
        recovery_timeout: Seconds until an open circuit lets a probe through, and that a probe has before another
            may try: one that hangs must not keep the circuit from closing. The first that succeeds closes it, however
            long it took.
        clock: Monotonic seconds.
    """

    def __init__(
        self, *, failure_threshold: int, recovery_timeout: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._threshold = failure_threshold
        self._recovery = recovery_timeout
        self._clock = clock
        self._failures = 0
        self._opened = 0
        self._refused = 0
        self._open_until: float | None = None  # None: closed
        # Every opening and every closing begins a generation; a call counts only in that in which it began.
        self._generation = 0
        self._probe = 0  # the latest one's number
        self._probe_until: float | None = None  # None: no probe is out that others wait for

    def stats(self) -> BreakerStats:
        """A snapshot, for metrics."""
        return BreakerStats(self.state, self._failures, self._opened, self._refused)

    @property
    def state(self) -> State:
        """Where the circuit stands now."""
        if self._open_until is None:
            return State.CLOSED
        if self._probe_until is None and self._clock() < self._open_until:
            return State.OPEN
        return State.HALF_OPEN

    @contextmanager
    def call(self) -> Iterator[None]:
        """Encloses one call, a stream to its end.

        Raises:
            CircuitOpen: at once, before the call; with the seconds until a probe may pass.
        """
        call = self._admit()
        try:
            yield
        except ContentBlocked:
            self._succeeded(call)
            raise
        except RequestRejected:
            self._abandoned(call)
            raise
        except (ModelFailed, TimedOut) as failure:
            self._failed(call, failure)
            raise
        except BaseException:
            self._abandoned(call)
            raise
        self._succeeded(call)

    def _admit(self) -> "_Call":
        """A call that may be made."""
        now = self._clock()
        if self._open_until is None:
            return _Call(self._generation, self._probe, now)
        blocked_until = self._open_until if self._probe_until is None else self._probe_until
        if now < blocked_until:
            self._refused += 1
            raise CircuitOpen(retry_after=blocked_until - now)
        self._probe += 1
        self._probe_until = now + self._recovery
        return _Call(self._generation, self._probe, now)

    def _succeeded(self, call: "_Call") -> None:
        if call.generation != self._generation:
            return
        self._failures = 0
        if self._open_until is not None:
            self._open_until = self._probe_until = None
            self._generation += 1

    def _failed(self, call: "_Call", failure: ModelFailed | TimedOut) -> None:
        if call.generation != self._generation or call.probe != self._probe:
            return
        self._failures += 1
        if self._open_until is None and self._failures < self._threshold:
            return
        # A probe's time counts as recovery time: an LLM that comes back while a probe hangs is not kept waiting twice.
        since = self._clock() if self._open_until is None else call.began
        wait = failure.upstream_wait if isinstance(failure, ModelFailed) else 0.0
        self._open_until = max(since + self._recovery, self._clock() + min(wait, MAX_UPSTREAM_WAIT))
        self._probe_until = None
        self._opened += 1
        self._generation += 1

    def _abandoned(self, call: "_Call") -> None:
        if call.generation == self._generation and call.probe == self._probe:
            self._probe_until = None  # where it was the probe, its place is free


@dataclass(frozen=True, slots=True)
class _Call:
    """A call that was let through: in which generation, after or as which probe, and when."""

    generation: int
    probe: int
    began: float
