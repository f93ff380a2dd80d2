"""The circuit breaker in front of the LLM (M. Nygard, Release It!, 2nd ed., ch. 5).

    Closed ──(so many failures in a row)──→ Open ──(the recovery time is over)──→ Half-open
      ↑                                      ↑                                       │
      └──────────── its probe succeeds ──────┼───────────────────────────────────────┤
                                             └───────────── its probe fails ─────────┘

A call can fail because of an outage, or because of the caller's content. Failures that content can cause count once per
caller until the next success, so no caller can open the circuit alone. No caller can keep it open alone either: after a
caller's probe, others who wait get the next one.

No method awaits, so on one event loop every step is atomic and no lock is needed.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from src.errors import CircuitOpen, ContentBlocked, ModelFailed, TimedOut

MAX_UPSTREAM_WAIT = 300.0  # maximum seconds that a provider's Retry-After can keep the circuit open
MAX_TURNS = 1024  # remembered callers' turns while the circuit is not closed


class State(StrEnum):
    """The state of the circuit."""

    CLOSED = "closed"  # calls pass
    OPEN = "open"  # calls are refused
    HALF_OPEN = "half_open"  # one call passes, as a probe


@dataclass(frozen=True, slots=True)
class BreakerStats:
    """Counts since the process started.

    Attributes:
        failures: Current failures in a row.
        opened: Number of times that the circuit opened, failed probes included.
        refused: Number of refused calls.
    """

    state: State
    failures: int
    opened: int
    refused: int


class CircuitBreaker:
    """Refuses calls while the LLM fails, and tests with one call at a time whether it works again.

    Only failures of the LLM count (`ModelFailed`, `TimedOut`), once per caller if content can cause them
    (`by_content`). A refused content (`ContentBlocked`) shows that the LLM works. Any other end of a call, such as a
    cancellation, shows nothing: if it was the probe, the next call becomes the probe.

    A caller's turn to probe lasts for one recovery time. If others were refused during it, the next turn is for them
    only.

    Args:
        failure_threshold: Failures in a row that open the circuit. Failures by content must come from at least two
            callers, even if this is 1.
        recovery_timeout: Seconds until an open circuit lets a probe through. A probe has the same time before another
            may start, so that a hanging one does not keep the circuit open. The first success closes it, however long
            it took.
        clock: Monotonic seconds.
    """

    def __init__(
        self, *, failure_threshold: int, recovery_timeout: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._threshold = failure_threshold
        self._recovery = recovery_timeout
        self._clock = clock
        self._failures = 0
        # Callers whose content failed since the last success or opening.
        self._blamed: set[str] = set()
        self._opened = 0
        self._refused = 0
        self._open_until: float | None = None  # None: closed
        # Every opening and closing starts a generation. A call counts only in the generation in which it began.
        self._generation = 0
        self._probe = 0  # number of the latest probe
        self._probe_until: float | None = None  # None: no probe is in flight that others wait for
        self._turns: OrderedDict[str, _Turn] = OrderedDict()  # by caller, oldest first; empty while closed
        self._turn: _Turn | None = None  # the latest turn

    def stats(self) -> BreakerStats:
        return BreakerStats(self.state, self._failures, self._opened, self._refused)

    @property
    def state(self) -> State:
        if self._open_until is None:
            return State.CLOSED
        if self._probe_until is None and self._clock() < self._open_until:
            return State.OPEN
        return State.HALF_OPEN

    @contextmanager
    def call(self, caller: str) -> Iterator[None]:
        """Guard one call, a stream to its end, as a context manager.

        Args:
            caller: The share key of the caller whose content is sent.

        Raises:
            CircuitOpen: At once, without a call, with the seconds until this caller may probe.
        """
        call = self._admit(caller)
        try:
            yield
        except ContentBlocked:
            self._succeeded(call)
            raise
        except (ModelFailed, TimedOut) as failure:
            self._failed(call, failure)
            raise
        except BaseException:
            self._abandoned(call)
            raise
        self._succeeded(call)

    def _admit(self, caller: str) -> "_Admission":
        """Admit a call, or raise CircuitOpen."""
        now = self._clock()
        if self._open_until is None:
            return _Admission(caller, self._generation, self._probe, now)
        blocked_until = self._open_until if self._probe_until is None else self._probe_until
        turn = self._turns.get(caller)
        if turn is not None:
            blocked_until = max(blocked_until, turn.blocked_until(now))
        if now < blocked_until:
            self._refused += 1
            if self._turn is not None and turn is not self._turn:
                self._turn.others_wait = True
            raise CircuitOpen(retry_after=blocked_until - now)
        if turn is None or now >= turn.ends:
            turn = self._begin_turn(caller, now)
        self._turn = turn
        self._probe += 1
        self._probe_until = turn.ends
        return _Admission(caller, self._generation, self._probe, now)

    def _begin_turn(self, caller: str, now: float) -> "_Turn":
        self._turns.pop(caller, None)
        if len(self._turns) >= MAX_TURNS:
            self._turns.popitem(last=False)
        turn = self._turns[caller] = _Turn(self._recovery, began=now)
        return turn

    def _succeeded(self, call: "_Admission") -> None:
        if call.generation != self._generation:
            return
        self._failures = 0
        self._forget()
        if self._open_until is not None:
            self._open_until = self._probe_until = None
            self._generation += 1

    def _failed(self, call: "_Admission", failure: ModelFailed | TimedOut) -> None:
        if call.generation != self._generation or call.probe != self._probe:
            return
        if not failure.by_content or call.caller not in self._blamed:
            self._failures += 1
        if failure.by_content:
            self._blamed.add(call.caller)
            self._end_turn()
        if self._is_enough(failure.by_content):
            self._open(call, failure)

    def _is_enough(self, by_content: bool) -> bool:
        """Return True if the failures so far open the circuit, or keep it open, after one of this kind."""
        if self._open_until is None:
            return self._failures >= (max(2, self._threshold) if by_content else self._threshold)
        return not by_content or len(self._blamed) >= max(2, self._threshold)

    def _open(self, call: "_Admission", failure: ModelFailed | TimedOut) -> None:
        # A probe's duration counts as recovery time, so that a hanging probe does not double the wait.
        since = self._clock() if self._open_until is None else call.began
        wait = failure.upstream_wait if isinstance(failure, ModelFailed) else 0.0
        self._open_until = max(since + self._recovery, self._clock() + min(wait, MAX_UPSTREAM_WAIT))
        self._probe_until = None
        self._forget()
        self._opened += 1
        self._generation += 1

    def _end_turn(self) -> None:
        """Give the next probe to another caller, because this one's content has failed."""
        if self._turn is not None:
            self._turn.failed_at = self._clock()
        self._probe_until = None

    def _abandoned(self, call: "_Admission") -> None:
        if call.generation == self._generation and call.probe == self._probe:
            self._probe_until = None  # if it was the probe, another may start

    def _forget(self) -> None:
        """Reset callers' failures by content, and their turns."""
        self._blamed.clear()
        self._turns.clear()
        self._turn = None


@dataclass(frozen=True, slots=True)
class _Admission:
    """An admitted call: its caller, generation, number of the latest probe, and start time."""

    caller: str
    generation: int
    probe: int
    began: float


@dataclass(slots=True)
class _Turn:
    """The time in which one caller may probe, again if a probe was abandoned.

    Attributes:
        recovery: Seconds that the turn lasts. The other callers have as long after it.
        failed_at: Time at which the caller's content failed, which ends the turn.
        others_wait: True if another caller was refused because of it.
    """

    recovery: float
    began: float
    failed_at: float | None = None
    others_wait: bool = False

    @property
    def ends(self) -> float:
        return self.began + self.recovery

    def blocked_until(self, now: float) -> float:
        """Return the time before which its caller may not probe."""
        if self.failed_at is not None:
            return self.failed_at + self.recovery if self.others_wait else self.ends
        return self.ends + self.recovery if self.others_wait and now >= self.ends else self.began
