"""The parts of the service with counts of their own, for the metrics and the status page."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from src.cache import FlowCache
    from src.circuit_breaker import CircuitBreaker
    from src.drain import Drain
    from src.rate_limit import BucketStore


@dataclass(frozen=True)
class Sources:
    """Parts with counts of their own; None for a part that is off."""

    drain: "Drain"
    buckets: "BucketStore"
    breaker: "CircuitBreaker | None"
    cache: "FlowCache[Any] | None"
