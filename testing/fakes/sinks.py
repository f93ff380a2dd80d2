"""Stand-ins for collectors of OpenTelemetry's spans."""

import gzip
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Sink:
    """Records what comes in, and waits for it."""

    def __init__(self) -> None:
        self.changed = threading.Condition()

    def wait_for(self, predicate: Callable[[], bool], timeout: float = 15) -> None:
        """Block until `predicate` holds; it is looked at whenever something has come in."""
        with self.changed:
            assert self.changed.wait_for(predicate, timeout), "it never came"


class HttpSink(Sink):
    """An HTTP server that keeps the bodies of the requests it gets, unzipped; a context manager."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: list[bytes] = []
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                with sink.changed:
                    sink.take(body)
                    sink.changed.notify_all()
                self.send_response(200)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]

    def take(self, body: bytes) -> None:
        """Keep a request."""
        self.bodies.append(body)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class Spans:
    """Spans, by what they are called."""

    def __init__(self) -> None:
        self.all: list[Span] = []

    def add(self, request: Any) -> None:
        self.all += [
            span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans
        ]

    def named(self, name: str) -> list[Span]:
        return [span for span in self.all if span.name == name]


class OtlpOverHttp(HttpSink):
    """A collector that takes OTLP over http/protobuf."""

    protocol = "http/protobuf"

    def __init__(self) -> None:
        super().__init__()
        self.spans = Spans()

    def take(self, body: bytes) -> None:
        self.spans.add(trace_service_pb2.ExportTraceServiceRequest.FromString(body))


class OtlpOverGrpc(Sink):
    """A collector that takes OTLP over gRPC; a context manager."""

    protocol = "grpc"

    def __init__(self) -> None:
        super().__init__()
        self.spans = Spans()
        sink = self

        class Servicer(trace_service_pb2_grpc.TraceServiceServicer):
            def Export(self, request: Any, context: Any) -> Any:
                with sink.changed:
                    sink.spans.add(request)
                    sink.changed.notify_all()
                return trace_service_pb2.ExportTraceServiceResponse()

        self._server = grpc.server(ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Servicer(), self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(0).wait()
