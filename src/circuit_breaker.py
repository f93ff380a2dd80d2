"""The circuit breaker in front of the LLM (M. Nygard, Release It!, 2nd ed., ch. 5).

    Closed ──(so many failures in a row)──→ Open ──(the recovery time is over)──→ Half-open
      ↑                                      ↑                                       │
      └──────────── its probe succeeds ──────┼───────────────────────────────────────┤
                                             └───────────── its probe fails ─────────┘

Callers' content can make a call fail as well as an outage can. What content can cause counts once for each caller until
the next success, so nobody opens the circuit alone, and nobody keeps it open: who has probed leaves the next probe to
others who wait.

Nothing in here awaits, so on one event loop every step is atomic and no lock is needed.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from src.errors import CircuitOpen, ContentBlocked, ModelFailed, TimedOut

MAX_UPSTREAM_WAIT = 300.0  # seconds that a provider's own Retry-After may lengthen an opening to
MAX_TURNS = 1024  # callers whose probes are remembered while the circuit is not closed


class State(StrEnum):
    """The state of the circuit."""

    CLOSED = "closed"  # calls pass
    OPEN = "open"  # calls are refused
    HALF_OPEN = "half_open"  # one call passes, as a probe


@dataclass(frozen=True, slots=True)
class BreakerStats:
    """Counts since the process started.

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

    Only failures of the LLM count (`ModelFailed`, `TimedOut`), once for each caller where content can cause them
    (`by_content`); a refusal to answer (`ContentBlocked`) shows that it works. A call that ends in any other way, by
    cancellation above all, says nothing: if it was the probe, the next call is.

    A caller's turn to probe lasts for one recovery time. If others were refused in it, the next one is theirs alone.

    Args:
        failure_threshold: Failures in a row that open the circuit. Those by content have to come from two callers at
            least, even where this is 1.
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
        # Callers whose content failed since the last success or opening; as many as the threshold empty it.
        self._blamed: set[str] = set()
        self._opened = 0
        self._refused = 0
        self._open_until: float | None = None  # None: closed
        # Every opening and every closing begins a generation; a call counts only in that in which it began.
        self._generation = 0
        self._probe = 0  # the latest one's number
        self._probe_until: float | None = None  # None: no probe is out that others wait for
        self._turns: OrderedDict[str, _Turn] = OrderedDict()  # by caller, oldest first; empty while closed
        self._turn: _Turn | None = None  # the latest one

    def stats(self) -> BreakerStats:
        """A snapshot, for metrics."""
        return BreakerStats(self.state, self._failures, self._opened, self._refused)

    @property
    def state(self) -> State:
        """The current state."""
        if self._open_until is None:
            return State.CLOSED
        if self._probe_until is None and self._clock() < self._open_until:
            return State.OPEN
        return State.HALF_OPEN

    @contextmanager
    def call(self, caller: str) -> Iterator[None]:
        """Encloses one call, a stream to its end.

        Args:
            caller: Whose content is sent: one name for all that a single client can call itself.

        Raises:
            CircuitOpen: at once, before the call; with the seconds until a probe of this caller may pass.
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

    def _admit(self, caller: str) -> "_Call":
        """A call that may be made."""
        now = self._clock()
        if self._open_until is None:
            return _Call(caller, self._generation, self._probe, now)
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
        return _Call(caller, self._generation, self._probe, now)

    def _begin_turn(self, caller: str, now: float) -> "_Turn":
        self._turns.pop(caller, None)
        if len(self._turns) >= MAX_TURNS:
            self._turns.popitem(last=False)
        turn = self._turns[caller] = _Turn(self._recovery, began=now)
        return turn

    def _succeeded(self, call: "_Call") -> None:
        if call.generation != self._generation:
            return
        self._failures = 0
        self._forget()
        if self._open_until is not None:
            self._open_until = self._probe_until = None
            self._generation += 1

    def _failed(self, call: "_Call", failure: ModelFailed | TimedOut) -> None:
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
        """Return whether the failures so far open the circuit, or keep it open, after one of this kind."""
        if self._open_until is None:
            return self._failures >= (max(2, self._threshold) if by_content else self._threshold)
        return not by_content or len(self._blamed) >= max(2, self._threshold)

    def _open(self, call: "_Call", failure: ModelFailed | TimedOut) -> None:
        # A probe's time counts as recovery time: an LLM that comes back while a probe hangs is not kept waiting twice.
        since = self._clock() if self._open_until is None else call.began
        wait = failure.upstream_wait if isinstance(failure, ModelFailed) else 0.0
        self._open_until = max(since + self._recovery, self._clock() + min(wait, MAX_UPSTREAM_WAIT))
        self._probe_until = None
        self._forget()
        self._opened += 1
        self._generation += 1

    def _end_turn(self) -> None:
        """Give the next probe to another caller: this one's content has failed."""
        if self._turn is not None:
            self._turn.failed_at = self._clock()
        self._probe_until = None

    def _abandoned(self, call: "_Call") -> None:
        if call.generation == self._generation and call.probe == self._probe:
            self._probe_until = None  # where it was the probe, its place is free

    def _forget(self) -> None:
        """Let every caller's content count again, and every caller probe."""
        self._blamed.clear()
        self._turns.clear()
        self._turn = None


@dataclass(frozen=True, slots=True)
class _Call:
    """A call that was let through: whose, in which generation, after or as which probe, and when."""

    caller: str
    generation: int
    probe: int
    began: float


@dataclass(slots=True)
class _Turn:
    """The time in which one caller may probe, again where a probe was abandoned.

    Attributes:
        recovery: Seconds that it lasts, and that the others have after it.
        failed_at: When the caller's content failed, which ends it.
        others_wait: Whether another caller was refused because of it.
    """

    recovery: float
    began: float
    failed_at: float | None = None
    others_wait: bool = False

    @property
    def ends(self) -> float:
        return self.began + self.recovery

    def blocked_until(self, now: float) -> float:
        """The time before which its caller may not probe."""
        if self.failed_at is not None:
            return self.failed_at + self.recovery if self.others_wait else self.ends
        return self.ends + self.recovery if self.others_wait and now >= self.ends else self.began
