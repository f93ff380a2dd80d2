"""The status page, in debug only: what one process does now, for whoever develops with it."""

import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.cache import FlowCache
from src.circuit_breaker import CircuitBreaker
from src.grpc_hooks import Rpc, RpcHook
from src.observability.redaction import client_text
from src.rate_limit import BucketStore
from src.util.probes import PROBE_PATHS, STATUS_PATH, STATUS_PATHS
from src.util.request_id import request_id_of
from src.util.scope import CLIENT_GONE, CLIENT_LEFT, route_path

PAGE = Path(__file__).with_name("status.html")
UNSEEN = PROBE_PATHS | STATUS_PATHS
MAX_CALLS = 500
WINDOW_SECONDS = 60
MAX_SHOWN = 30


@dataclass(frozen=True, slots=True)
class Call:
    """A request or an RPC that has ended; `at` is in seconds since the epoch."""

    at: float
    protocol: str
    name: str
    status: str
    duration_ms: float
    request_id: str
    trace_id: str


class Status:
    """Remembers the last calls, and adds up what the parts of the service count.

    Args:
        is_traced: Whether there are traces to name.
        trace_url: Where one can be looked at, with `{trace_id}` in it; empty: nowhere.
    """

    def __init__(
        self,
        buckets: BucketStore,
        breaker: CircuitBreaker | None,
        cache: "FlowCache[Any] | None",
        *,
        is_traced: bool,
        trace_url: str,
    ) -> None:
        self._buckets = buckets
        self._breaker = breaker
        self._cache = cache
        self._is_traced = is_traced
        self._trace_url = trace_url
        self._calls: deque[Call] = deque(maxlen=MAX_CALLS)

    def note(self, protocol: str, name: str, status: str, began: float, request_id: str) -> None:
        """A call has ended; `began` is on the performance counter."""
        duration = round((time.perf_counter() - began) * 1000, 2)
        self._calls.append(
            Call(time.time(), protocol, client_text(name), status, duration, request_id, self._trace_id())
        )

    def _trace_id(self) -> str:
        if not self._is_traced:
            return ""
        from opentelemetry import trace

        return trace.format_trace_id(trace.get_current_span().get_span_context().trace_id)

    def snapshot(self) -> dict[str, Any]:
        """Return the figures of the page."""
        now = time.time()
        recent = [call for call in self._calls if call.at > now - WINDOW_SECONDS]
        per_second = [0] * WINDOW_SECONDS
        for call in recent:
            per_second[min(WINDOW_SECONDS - 1, int(call.at - now + WINDOW_SECONDS))] += 1
        durations = sorted(call.duration_ms for call in recent)
        return {
            "per_second": per_second,
            "calls": len(recent),
            "p50_ms": _quantile(durations, 0.5),
            "p99_ms": _quantile(durations, 0.99),
            "breaker": asdict(self._breaker.stats()) if self._breaker else None,
            "cache": asdict(self._cache.stats()) if self._cache else None,
            "rate_limit": asdict(self._buckets.stats()),
            "trace_url": self._trace_url,
            "recent": [asdict(call) for call in list(self._calls)[: -MAX_SHOWN - 1 : -1]],
        }

    def add_to(self, app: FastAPI) -> None:
        """The page and its data as endpoints."""

        async def page() -> Response:
            return Response(PAGE.read_bytes(), media_type="text/html")

        async def data() -> Response:
            return Response(orjson.dumps(self.snapshot()), media_type="application/json")

        app.add_api_route(STATUS_PATH, page, include_in_schema=False)
        app.add_api_route(f"{STATUS_PATH}.json", data, include_in_schema=False)


def _quantile(ordered: list[float], share: float) -> float | None:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else None


class StatusLayer:
    """Notes every request but probes and the page's own."""

    def __init__(self, app: ASGIApp, status: Status) -> None:
        self.app = app
        self._status = status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or route_path(scope) in UNSEEN:
            await self.app(scope, receive, send)
            return
        began, code = time.perf_counter(), CLIENT_GONE

        async def noting(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start" and CLIENT_LEFT not in scope["state"]:
                code = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            self._status.note("REST", f"{scope['method']} {scope['path']}", str(code), began, request_id_of(scope))


class RpcStatus(RpcHook):
    """Notes every RPC but health checks."""

    skips_probes = True

    def __init__(self, status: Status) -> None:
        self._status = status

    def on_end(self, _token: None, rpc: Rpc) -> None:
        """Note it."""
        self._status.note("gRPC", rpc.method.rpartition("/")[2], rpc.code, rpc.began, rpc.request_id)
