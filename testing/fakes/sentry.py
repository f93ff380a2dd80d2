"""A stand-in for Sentry's host."""

import json
from typing import Any

from testing.fakes.sinks import HttpSink


class SentrySink(HttpSink):
    """Sentry's host: the events and transactions out of the envelopes it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.items: list[tuple[str, dict[str, Any]]] = []

    @property
    def dsn(self) -> str:
        return f"http://canarydsnkey@127.0.0.1:{self.port}/1"

    def take(self, body: bytes) -> None:
        super().take(body)
        lines = body.split(b"\n")
        for header, payload in zip(lines[1::2], lines[2::2], strict=False):
            self.items.append((json.loads(header)["type"], json.loads(payload)))

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The items of one kind: `event`, `transaction`."""
        return [item for type_, item in self.items if type_ == kind]
