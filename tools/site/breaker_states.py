"""The circuit breaker's states, found by exercising a real breaker."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from src.circuit_breaker import CircuitBreaker, State
from src.config import Settings
from src.errors import CircuitOpen, ModelFailed

THRESHOLD: int = Settings.model_fields["cb_failure_threshold"].default
RECOVERY_SECONDS: float = Settings.model_fields["cb_recovery_timeout"].default


@dataclass(frozen=True)
class Transition:
    """A transition of the circuit from one state to another."""

    before: State
    happening: str
    after: State


class _Experiment:
    """A breaker with the default settings and its own clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.breaker = CircuitBreaker(
            failure_threshold=THRESHOLD, recovery_timeout=RECOVERY_SECONDS, clock=lambda: self.now
        )

    def succeed(self) -> None:
        with suppress(CircuitOpen), self.breaker.call("a client"):
            pass

    def fail(self) -> None:
        with suppress(CircuitOpen, ModelFailed), self.breaker.call("a client"):
            raise ModelFailed

    def fail_in_a_row(self) -> None:
        for _ in range(THRESHOLD):
            self.fail()

    def wait(self) -> None:
        self.now += RECOVERY_SECONDS


Happening = Callable[[_Experiment], None]

# If several events cause the same transition, the first is listed.
HAPPENINGS: dict[str, Happening] = {
    "a call succeeds": _Experiment.succeed,
    "a call fails": _Experiment.fail,
    f"{THRESHOLD} calls in a row fail": _Experiment.fail_in_a_row,
    f"{RECOVERY_SECONDS:g} seconds pass": _Experiment.wait,
}
WAYS_TO: dict[State, tuple[Happening, ...]] = {
    State.CLOSED: (),
    State.OPEN: (_Experiment.fail_in_a_row,),
    State.HALF_OPEN: (_Experiment.fail_in_a_row, _Experiment.wait),
}


def transitions() -> list[Transition]:
    """Return every transition between two states, one per pair."""
    found: dict[tuple[State, State], Transition] = {}
    for before, way in WAYS_TO.items():
        for words, happening in HAPPENINGS.items():
            after = _state_after(*way, happening)
            if after is not before:
                found.setdefault((before, after), Transition(before, words, after))
    return list(found.values())


def _state_after(*happenings: Happening) -> State:
    experiment = _Experiment()
    for happening in happenings:
        happening(experiment)
    return experiment.breaker.state
