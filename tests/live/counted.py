"""The service with one more path, outside of its chain, that tells how many tasks its event loop has."""

import asyncio

import orjson
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from src import asgi

PATH = "/tasks"


def create_app() -> ASGIApp:
    """As the real one, but for the path."""
    service = asgi.create_app()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != PATH:
            await service(scope, receive, send)
            return
        names = sorted(str(task.get_coro()) for task in asyncio.all_tasks())
        await Response(orjson.dumps(names), media_type="application/json")(scope, receive, send)

    return app
