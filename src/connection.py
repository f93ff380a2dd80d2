"""The connections to the LLM's provider."""

from typing import Any

import httpx

from src.config import Settings

CONNECT_SECONDS = 5.0  # a host that is down must not cost a caller the whole of LLM_TIMEOUT
IDLE_SECONDS = 60.0


def configure_httpx_defaults(settings: Settings) -> dict[str, Any]:
    """The arguments with which a provider's SDK is to make its `httpx.AsyncClient`: the pool, and split timeouts.

    httpx has no process-wide defaults and reads none from the environment: only a client made with them has them.
    SDKs give each request a timeout of their own besides, the same for connecting and reading, which the hook puts
    right. Reading may take as long as the whole call, since a model that thinks is silent until it answers; the wall
    clock over the whole call is kept by `src.llm`.
    """
    wall = settings.llm_timeout / 1000
    timeout = httpx.Timeout(wall, connect=min(CONNECT_SECONDS, wall))

    async def split_timeouts(request: httpx.Request) -> None:
        request.extensions["timeout"] = timeout.as_dict()

    return {
        "limits": httpx.Limits(
            max_connections=settings.httpx_pool_max,
            max_keepalive_connections=settings.httpx_pool_max_keepalive,
            keepalive_expiry=IDLE_SECONDS,
        ),
        "timeout": timeout,
        "event_hooks": {"request": [split_timeouts]},
    }
