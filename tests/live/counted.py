"""The service with two more paths, outside of its chain, that tell the tasks of its event loop and what is imported."""

import asyncio
import sys

import orjson
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from src import asgi

PATH = "/tasks"
MODULES = "/modules"


def create_app() -> ASGIApp:
    """As the real one, but for the paths."""
    service = asgi.create_app()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in (PATH, MODULES):
            await service(scope, receive, send)
            return
        is_asked_for_modules = scope["path"] == MODULES
        names = sorted(sys.modules if is_asked_for_modules else (str(task.get_coro()) for task in asyncio.all_tasks()))
        await Response(orjson.dumps(names), media_type="application/json")(scope, receive, send)

    return app
