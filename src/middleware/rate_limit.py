"""Refuse requests over the rate."""

import math
from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.errors import RateLimited
from src.middleware.responses import guarded
from src.rate_limit import Decision, RateLimit
from src.util.client_address import TrustedProxies, client_of
from src.util.probe_paths import PROBE_PATHS
from src.util.scope import route_path


class RateLimitMiddleware:
    """Refuses requests over the rate with 429, and reports the remaining budget in all responses.

    Sends `RateLimit` and `RateLimit-Policy` as in draft-ietf-httpapi-ratelimit-headers-10.
    """

    def __init__(
        self, app: ASGIApp, limit: RateLimit, proxies: TrustedProxies, exempt: frozenset[str] = PROBE_PATHS
    ) -> None:
        self.app = app
        self._exempt = exempt
        self._limit = limit
        self._proxies = proxies
        rate = limit.rate
        self._policy = (b"ratelimit-policy", f'"default";q={rate.count};w={rate.seconds}'.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or route_path(scope) in self._exempt:
            await self.app(scope, receive, send)
            return
        decision = await self._limit.admit(client_of(scope, self._proxies))
        limits = [self._policy, (b"ratelimit", _state(decision))]

        def send_with_rate_limit(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *limits]}
            return send(message)

        if decision.allowed:
            await self.app(scope, receive, send_with_rate_limit)
        else:
            guard, _ = guarded(scope, send_with_rate_limit)
            await guard.fail(scope, send_with_rate_limit, RateLimited(decision.retry_after))


def _state(decision: Decision) -> bytes:
    wait = f";t={math.ceil(decision.retry_after)}" if decision.retry_after else ""
    return f'"default";r={decision.remaining}{wait}'.encode()
