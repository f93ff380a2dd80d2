"""The baseline of RPCs: grpc.aio with one RPC, bytes in and out: no parsing, no interceptor.

`python -m benchmarks.bare_grpc` serves it alone in a process, under uvloop, at GRPC_PORT.
"""

import os

import grpc
import uvloop

TRANSLATE_TEXT = "/genkit.sample.v1.GenkitService/TranslateText"
# What the service answers with its embedded model, at some other time.
TRANSLATION = {
    "original_text": "hello",
    "translated_text": (
        'Translated text: This is the offline demo model, answering "hello". It was told: Translate the text into the '
        "target language. A tool answered: 2026-01-01T00:00:00+00:00. Name a real model to get a real answer."
    ),
    "target_language": "French",
    "confidence": "high",
}


def _field(number: int, text: str) -> bytes:
    """Encode a field of a protobuf message: generated code would have to be that of the service."""
    length = len(text.encode())
    return bytes([number << 3 | 2, *([length] if length < 128 else [length & 127 | 128, length >> 7])]) + text.encode()


MESSAGE = b"".join(_field(number, text) for number, text in enumerate(TRANSLATION.values(), 1))


async def start() -> grpc.aio.Server:
    """Start the server in this event loop."""

    async def answer(_request: bytes, _context: object) -> bytes:
        return MESSAGE

    service, _, method = TRANSLATE_TEXT.removeprefix("/").partition("/")
    handler = grpc.method_handlers_generic_handler(service, {method: grpc.unary_unary_rpc_method_handler(answer)})
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(f"127.0.0.1:{os.environ['GRPC_PORT']}")
    await server.start()
    return server


async def serve() -> None:
    """Serve until the process is killed."""
    server = await start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve())
