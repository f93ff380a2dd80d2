"""Baselines: apps that do the same, or nothing, with nothing around them.

All are served by granian, as the service is, so that the servers don't differ.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.types import ASGIApp, Receive, Scope, Send

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
TRANSLATE_TEXT = "/genkit.sample.v1.GenkitService/TranslateText"
ANSWER = TranslationResponse(
    original_text="hello",
    translated_text="Translated text: This is the offline demo model, answering what it was asked. Name a real one.",
    target_language="French",
    confidence="high",
)
# The same as protobuf: any bytes of this length will do, nobody reads them.
MESSAGE = b"\n\x05hello\x12" + bytes([120]) + b"x" * 120


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
    """grpc.aio with one RPC, bytes in and out: no parsing, no interceptor."""

    async def answer(_request: bytes, _context: object) -> bytes:
        return MESSAGE

    service, _, method = TRANSLATE_TEXT.removeprefix("/").partition("/")
    handler = grpc.method_handlers_generic_handler(service, {method: grpc.unary_unary_rpc_method_handler(answer)})
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(f"127.0.0.1:{os.environ['GRPC_PORT']}")
    await server.start()
    yield
    await server.stop(None)
