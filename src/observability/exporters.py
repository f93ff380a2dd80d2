"""Exporters of spans, one a platform. Each needs an extra; none touches a network unless its docstring says so."""

import os

from opentelemetry import propagate
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

AZURE_CONNECTION = "APPLICATIONINSIGHTS_CONNECTION_STRING"


class Lacking(Exception):
    """Something that only the operator can give; the message names it."""


def otlp() -> SpanExporter:
    """To an OTLP collector; endpoint, protocol, headers and TLS come from OpenTelemetry's own variables."""
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as Grpc

        return Grpc()
    if protocol not in (None, "", "http/protobuf"):
        raise Lacking(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol!r}: use http/protobuf or grpc")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as Http

    return Http()


def google_cloud() -> SpanExporter:
    """To Cloud Trace. Asks the metadata server for credentials and project."""
    from opentelemetry.exporter.cloud_trace import CloudTraceSpanExporter

    project = os.environ.get("GOOGLE_CLOUD_PROJECT") or None
    return CloudTraceSpanExporter(project_id=project)  # type: ignore[no-untyped-call]


def aws() -> SpanExporter:
    """To the collector of AWS Distro for OpenTelemetry beside the container, with X-Ray's ids and header."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.propagators.aws import AwsXRayPropagator

    propagate.set_global_textmap(CompositePropagator([AwsXRayPropagator(), TraceContextTextMapPropagator()]))
    return OTLPSpanExporter()


def azure() -> SpanExporter:
    """To Application Insights."""
    if not os.environ.get(AZURE_CONNECTION):
        raise Lacking(f"set {AZURE_CONNECTION}")
    from azure.monitor.opentelemetry.exporter import AzureMonitorTraceExporter

    return AzureMonitorTraceExporter()
