"""Baselines: apps that do the same, or nothing, with nothing around them.

All are served by granian, as the service is, so that the servers don't differ. `benchmarks.bare_grpc` is
also measured in a process of its own.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.types import ASGIApp, Receive, Scope, Send

from benchmarks import bare_grpc
from src.schemas import TranslateRequest, TranslationResponse

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
    """FastAPI as its documentation shows it, with the service's own models, and a bare gRPC server beside it."""
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
