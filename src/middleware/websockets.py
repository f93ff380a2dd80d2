"""Treat WebSocket handshakes as plain GETs. The service has no WebSocket endpoints."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send


def websockets_as_http(app: ASGIApp) -> ASGIApp:
    """Wrap `app` so that a WebSocket handshake reaches it as a GET.

    Otherwise the server itself rejects the handshake, without security headers, request id, access log or rate limit.
    Servers with WebSockets turned off never send one.
    """

    async def with_handshakes(scope: Scope, receive: Receive, send: Send) -> None:
        await (handshake if scope["type"] == "websocket" else app)(scope, receive, send)

    async def handshake(scope: Scope, receive: Receive, send: Send) -> None:
        can_answer = "websocket.http.response" in scope.get("extensions", {})

        async def no_body() -> Message:
            while (await receive())["type"] != "websocket.disconnect":
                pass
            return {"type": "http.disconnect"}

        async def answer(message: Message) -> None:
            if can_answer:
                await send({**message, "type": message["type"].replace("http.", "websocket.http.", 1)})

        scheme = {"ws": "http", "wss": "https"}.get(scope.get("scheme", "ws"), "http")
        await app({**scope, "type": "http", "method": "GET", "scheme": scheme}, no_body, answer)
        if not can_answer:
            await send({"type": "websocket.close", "code": 1000})

    return with_handshakes
