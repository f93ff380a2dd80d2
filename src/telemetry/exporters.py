"""Span exporters, one per platform. Each needs an extra. None uses the network unless its docstring says so."""

from collections.abc import Mapping

from opentelemetry import propagate
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

AZURE_CONNECTION = "APPLICATIONINSIGHTS_CONNECTION_STRING"


class MissingConfiguration(Exception):
    """Something is missing that only the operator can provide. The message names it."""


def otlp(environment: Mapping[str, str]) -> SpanExporter:
    """Export to an OTLP collector, configured by OpenTelemetry's own variables."""
    protocol = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as Grpc

        return Grpc()
    if protocol not in (None, "", "http/protobuf"):
        raise MissingConfiguration(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol!r}: use http/protobuf or grpc")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as Http

    return Http()


def google_cloud(environment: Mapping[str, str]) -> SpanExporter:
    """Export to Cloud Trace. Asks the metadata server for credentials and project."""
    from opentelemetry.exporter.cloud_trace import CloudTraceSpanExporter

    project = environment.get("GOOGLE_CLOUD_PROJECT") or None
    return CloudTraceSpanExporter(project_id=project)  # type: ignore[no-untyped-call]


def aws(_environment: Mapping[str, str]) -> SpanExporter:
    """Export to the AWS Distro for OpenTelemetry collector beside the container, with X-Ray's ids and header."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.propagators.aws import AwsXRayPropagator

    propagate.set_global_textmap(CompositePropagator([AwsXRayPropagator(), TraceContextTextMapPropagator()]))
    return OTLPSpanExporter()


def azure(environment: Mapping[str, str]) -> SpanExporter:
    if not environment.get(AZURE_CONNECTION):
        raise MissingConfiguration(f"set {AZURE_CONNECTION}")
    from azure.monitor.opentelemetry.exporter import AzureMonitorTraceExporter

    return AzureMonitorTraceExporter()
