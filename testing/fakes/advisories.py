"""A stand-in for the advisory service OSV on loopback, which knows of one vulnerable package.

It speaks as much of the public API (https://google.github.io/osv.dev/api/) as the audit tools ask.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PACKAGE, VERSION, ADVISORY = "planted-package", "1.0.0", "PYSEC-2020-1"

_ADVISORY = {
    "id": ADVISORY,
    "summary": "planted",
    "details": "planted",
    "modified": "2020-01-01T00:00:00Z",
    "published": "2020-01-01T00:00:00Z",
    "severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],
    "affected": [
        {
            "package": {"ecosystem": "PyPI", "name": PACKAGE},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.0.1"}]}],
            "versions": [VERSION],
        }
    ],
}


def _known(query: dict[str, Any]) -> list[dict[str, Any]]:
    return [_ADVISORY] if query["package"]["name"] == PACKAGE and query["version"] == VERSION else []


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer(_ADVISORY)

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path.endswith("/querybatch"):
            self._answer({"results": [{"vulns": _known(one)} for one in query["queries"]]})
        else:
            self._answer({"vulns": _known(query)})

    def _answer(self, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def advisories() -> Iterator[str]:
    """The stand-in's base URL, as long as the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
