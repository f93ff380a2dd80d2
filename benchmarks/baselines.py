"""Baselines: apps that do the same, or nothing, with nothing around them.

All are served by granian, as the service is, so that the servers don't differ. `benchmarks.bare_grpc` is
also measured in a process of its own.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from pydantic import BaseModel, Field
from starlette.types import ASGIApp, Receive, Scope, Send

from benchmarks import bare_grpc

# As the service has it: FastAPI's own would cost more than all of the chain. Not imported from there, as that would
# bring Genkit into the baseline, and with it a heap that takes long to collect.
NO_TELEMETRY: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
OK = b'{"status":"ok"}'


class TranslateRequest(BaseModel):
    text: str = Field("Hello, how are you?", min_length=1, max_length=10_000)
    target_language: str = Field("French", max_length=100)


class TranslationResponse(BaseModel):
    original_text: str
    translated_text: str
    target_language: str
    confidence: Literal["high", "medium", "low"]


ANSWER = TranslationResponse.model_validate(bare_grpc.TRANSLATION)


def raw() -> ASGIApp:
    """ASGI alone: what the server itself costs."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(OK)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": OK})

    return app


def fastapi() -> FastAPI:
    """FastAPI as its documentation shows it, with models as the service has them, and a bare gRPC server beside it."""
    app = FastAPI(lifespan=_bare_grpc, telemetry=NO_TELEMETRY)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/translate")
    async def translate(body: TranslateRequest) -> TranslationResponse:
        return ANSWER.model_copy(update={"original_text": body.text})

    return app


@asynccontextmanager
async def _bare_grpc(_app: FastAPI) -> AsyncIterator[None]:
    server = await bare_grpc.start()
    yield
    await server.stop(None)
