"""The debug status page: the current state of one process, for developers."""

import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI, Response

from src.logs.access import EndedCall
from src.logs.redaction import client_text
from src.rpc.hooks import PROBE_METHODS
from src.telemetry.sources import Sources
from src.util.probe_paths import PROBE_PATHS, STATUS_PATH, STATUS_PATHS

PAGE = Path(__file__).with_name("status.html")
UNSEEN = PROBE_PATHS | PROBE_METHODS | STATUS_PATHS
MAX_CALLS = 500
WINDOW_SECONDS = 60
MAX_SHOWN = 30


@dataclass(frozen=True, slots=True)
class RecentCall:
    """A request or an RPC of the table; `at` is when it ended, in seconds since the epoch."""

    at: float
    protocol: str
    name: str
    status: str
    duration_ms: float
    request_id: str
    trace_id: str


class Status:
    """Remembers the last calls and adds up the counters of the service's parts.

    Args:
        is_traced: True if calls have trace ids.
        trace_url: URL of a trace, with `{trace_id}`; empty for no link.
    """

    def __init__(self, sources: Sources, *, is_traced: bool, trace_url: str) -> None:
        self._sources = sources
        self._is_traced = is_traced
        self._trace_url = trace_url
        self._calls: deque[RecentCall] = deque(maxlen=MAX_CALLS)

    def note(self, call: EndedCall) -> None:
        """Remember a call that has ended, unless it is a probe or a request of the page itself."""
        if call.route in UNSEEN:
            return
        is_rpc = call.protocol == "grpc"
        method, path = client_text(call.method), client_text(call.path)
        name = method.rpartition("/")[2] if is_rpc else f"{method} {path}"
        duration = round(call.seconds * 1000, 2)
        self._calls.append(
            RecentCall(
                time.time(),
                "gRPC" if is_rpc else "REST",
                name,
                str(call.status),
                duration,
                call.request_id,
                self._trace_id(),
            )
        )

    def _trace_id(self) -> str:
        if not self._is_traced:
            return ""
        from opentelemetry import trace

        return trace.format_trace_id(trace.get_current_span().get_span_context().trace_id)

    def snapshot(self) -> dict[str, Any]:
        now = time.time()
        recent = [call for call in self._calls if call.at > now - WINDOW_SECONDS]
        per_second = [0] * WINDOW_SECONDS
        for call in recent:
            per_second[min(WINDOW_SECONDS - 1, int(call.at - now + WINDOW_SECONDS))] += 1
        breaker, cache = self._sources.breaker, self._sources.cache
        durations = sorted(call.duration_ms for call in recent)
        return {
            "per_second": per_second,
            "calls": len(recent),
            "p50_ms": _quantile(durations, 0.5),
            "p99_ms": _quantile(durations, 0.99),
            "breaker": asdict(breaker.stats()) if breaker else None,
            "cache": asdict(cache.stats()) if cache else None,
            "rate_limit": asdict(self._sources.buckets.stats()),
            "trace_url": self._trace_url,
            "recent": [asdict(call) for call in list(self._calls)[: -MAX_SHOWN - 1 : -1]],
        }

    def add_to(self, app: FastAPI) -> None:
        async def page() -> Response:
            return Response(PAGE.read_bytes(), media_type="text/html")

        async def data() -> Response:
            return Response(orjson.dumps(self.snapshot()), media_type="application/json")

        app.add_api_route(STATUS_PATH, page, include_in_schema=False)
        app.add_api_route(f"{STATUS_PATH}.json", data, include_in_schema=False)


def _quantile(ordered: list[float], share: float) -> float | None:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else None
