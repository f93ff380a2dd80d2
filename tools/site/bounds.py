"""Tables for the page of bounds: every limit on input from outside, with its value from the code."""

import re
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

from src.config import Settings
from src.errors import (
    CircuitOpen,
    InvalidInput,
    ModelFailed,
    Overloaded,
    PayloadTooLarge,
    RateLimited,
    ServiceError,
    ShuttingDown,
    TimedOut,
)
from tools.site.markdown_table import code, table

Outcome = type[ServiceError] | tuple[str, str] | str
_CONSTANT = re.compile(r"(?P<module>[\w.]+)\.(?P<name>\w+)(\[(?P<key>[\w.]+)\])?")


@dataclass(frozen=True, slots=True)
class Bound:
    """One limit.

    Attributes:
        limits: The bounded thing.
        place: The setting's variable, or the constant as `module.NAME`; an option in a table as `module.NAME[key]`.
        unit: Unit of the value.
        beyond: The response when it is exceeded: a failure of `src.errors`, or a text for both protocols or for each.
        test: The pytest id of the test that shows it.
    """

    limits: str
    place: str
    unit: str
    beyond: Outcome
    test: str


SECURITY, LIMITS, ATTACKS = "tests/test_security.py::", "tests/live/test_bounds.py::", "tests/live/test_attacks.py::"
HEALTH = "tests/live/test_grpc_bounds.py::"
IMAGES, LOAD = "tests/images/test_fetch.py::", "tests/live/test_load.py::"
NONE = "not applicable"

BOUNDS: dict[str, tuple[Bound, ...]] = {
    "Requests and RPCs": (
        Bound(
            "Body of a request, message of an RPC",
            "MAX_BODY_SIZE",
            "bytes",
            PayloadTooLarge,
            SECURITY + "test_every_answer_of_every_framework_is_hardened_and_traceable",
        ),
        Bound(
            "Pieces (chunks, frames) of a request's body, of any size",
            "src.middleware.limits.FREE_PIECES",
            "",
            (f"{PayloadTooLarge.http_status} {PayloadTooLarge.title}", NONE),
            SECURITY + "test_a_body_in_very_many_pieces_is_refused",
        ),
        Bound(
            "Average size of further pieces, minimum",
            "src.middleware.limits.MIN_PIECE_BYTES",
            "bytes",
            (f"{PayloadTooLarge.http_status} {PayloadTooLarge.title}", NONE),
            SECURITY + "test_a_body_in_very_many_pieces_is_refused",
        ),
        Bound(
            "Digits of a `Content-Length`",
            "src.middleware.limits.MAX_LENGTH_DIGITS",
            "",
            (f"{PayloadTooLarge.http_status} {PayloadTooLarge.title}", NONE),
            SECURITY + "test_every_answer_of_every_framework_is_hardened_and_traceable",
        ),
        Bound(
            "Request line and headers, under granian",
            "src.main.MAX_HEADER_BYTES",
            "bytes",
            ("431, by the server", NONE),
            ATTACKS + "test_an_attack_on_the_rest_port_gets_a_4xx_and_a_log_line",
        ),
        Bound(
            "Request line and headers under uvicorn and gunicorn; also trailers and the like",
            "src.lifecycle.uvicorn_http.MAX_HEAD_BYTES",
            "bytes",
            ("431 Request Header Fields Too Large", NONE),
            "tests/lifecycle/test_uvicorn_http.py::test_what_comes_without_end_and_is_no_body_is_refused_by_its_amount",
        ),
        Bound(
            "Metadata of an RPC",
            "src.rpc.server.LIMITS[grpc.max_metadata_size]",
            "bytes",
            (NONE, "`RESOURCE_EXHAUSTED`"),
            LIMITS + "test_metadata_over_the_limit_is_refused",
        ),
        Bound(
            "Duration of a request or RPC, with its upload and its stream",
            "REQUEST_TIMEOUT",
            "seconds",
            TimedOut,
            ATTACKS + "test_an_upload_that_stalls_is_ended_by_the_time_limit",
        ),
        Bound(
            "Requests and RPCs of one client",
            "RATE_LIMIT_DEFAULT",
            "",
            RateLimited,
            "tests/live/test_rate_limit.py::test_five_pass_in_any_mix_and_then_none",
        ),
        Bound(
            "Unread body that the service reads to keep the connection open",
            "src.middleware.unread_body.MAX_BYTES",
            "bytes",
            ("the connection is closed after the response", NONE),
            "tests/middleware/test_unread_body.py::test_a_long_body_is_left",
        ),
        Bound(
            "Pieces of such an unread body",
            "src.middleware.unread_body.MAX_PIECES",
            "",
            ("the connection is closed after the response", NONE),
            "tests/middleware/test_unread_body.py::test_a_body_in_many_pieces_is_left",
        ),
        Bound(
            "Time to read such a body",
            "src.middleware.unread_body.MAX_SECONDS",
            "seconds",
            ("the connection is closed after the response", NONE),
            "tests/middleware/test_unread_body.py::test_a_slow_body_is_left",
        ),
        Bound(
            "Messages that an RPC may send as its request",
            "src.rpc.requests.MAX_MESSAGES",
            "",
            (NONE, code(PayloadTooLarge.grpc_code)),
            "tests/rpc/test_bounds.py::test_a_stream_of_requests_has_so_many_messages_and_no_more",
        ),
        Bound(
            "Sending a failure's status to a client that does not read",
            "src.rpc.interceptors.ABORT_SECONDS",
            "seconds",
            (NONE, "the RPC is cancelled"),
            "tests/rpc/test_bounds.py::test_the_status_of_a_failure_waits_only_so_long_for_a_client_that_does_not_read",
        ),
    ),
    "Health checks (no rate limit)": (
        Bound(
            "Message of an RPC",
            "src.rpc.requests.MAX_PROBE_BYTES",
            "bytes",
            (NONE, code(PayloadTooLarge.grpc_code)),
            HEALTH + "test_a_probe_with_a_long_name_is_refused",
        ),
        Bound(
            "Duration of an RPC; for a watch, until its message arrives",
            "src.rpc.hooks.PROBE_SECONDS",
            "seconds",
            (NONE, code(TimedOut.grpc_code)),
            HEALTH + "test_a_probe_has_less_time_than_other_rpcs",
        ),
        Bound(
            "RPCs of one client whose message has not arrived",
            "src.rpc.requests.MAX_WAITING_PROBES",
            "",
            (NONE, "the oldest is ended"),
            HEALTH + "test_of_too_many_probes_without_a_message_the_oldest_give_way",
        ),
        Bound(
            "Concurrent watches of one client",
            "src.rpc.health.MAX_WATCHES",
            "",
            (NONE, f"{code(Overloaded.grpc_code)}, RetryInfo"),
            HEALTH + "test_a_client_has_four_watches_on_however_many_connections",
        ),
        Bound(
            "Age of a watch, shortened at random by up to a tenth",
            "src.rpc.health.WATCH_SECONDS",
            "seconds",
            (NONE, "it ends"),
            "tests/rpc/test_bounds.py::test_a_watch_ends_when_it_is_old_enough",
        ),
    ),
    "Connections": (
        Bound(
            "Connections to the REST port under `python -m src`",
            "src.main.MAX_CONNECTIONS",
            "",
            ("the next one waits until one is closed", NONE),
            "tests/stress/test_connections.py::test_connections_that_ask_for_nothing_are_closed_and_hold_nobody_up",
        ),
        Bound(
            "Idle time of a connection",
            "KEEP_ALIVE_TIMEOUT",
            "seconds",
            "the connection is closed",
            LIMITS + "test_an_idle_connection_is_closed",
        ),
        Bound(
            "Concurrent streams on one HTTP/2 connection to the REST port",
            "src.main.MAX_STREAMS",
            "",
            ("the client's next stream waits", NONE),
            "tests/live/test_connection_limits.py::test_the_rest_port_names_its_maximum_of_streams",
        ),
        Bound(
            "Concurrent RPCs on one connection",
            "src.rpc.server.LIMITS[grpc.max_concurrent_streams]",
            "",
            (NONE, "the client's next RPC waits"),
            LIMITS + "test_rpcs_beyond_what_a_connection_takes_wait",
        ),
        Bound(
            "Interval of the server's pings to a silent client",
            "src.rpc.server.LIMITS[grpc.keepalive_time_ms]",
            "ms",
            (NONE, "the server sends a ping"),
            "tests/live/test_connection_limits.py::test_a_client_that_answers_no_ping_is_disconnected",
        ),
        Bound(
            "Time for a client to answer such a ping",
            "src.rpc.server.LIMITS[grpc.http2.ping_timeout_ms]",
            "ms",
            (NONE, "the connection is closed"),
            "tests/live/test_connection_limits.py::test_a_client_that_answers_no_ping_is_disconnected",
        ),
        Bound(
            "Interval of a client's pings, minimum",
            "src.rpc.server.LIMITS[grpc.http2.min_ping_interval_without_data_ms]",
            "ms",
            (NONE, "a strike"),
            "tests/live/test_connection_limits.py::test_a_client_that_pings_too_often_is_disconnected",
        ),
        Bound(
            "Such strikes",
            "src.rpc.server.LIMITS[grpc.http2.max_ping_strikes]",
            "",
            (NONE, "the connection is closed: `too_many_pings`"),
            "tests/live/test_connection_limits.py::test_a_client_that_pings_too_often_is_disconnected",
        ),
        Bound(
            "Age of a connection",
            "src.rpc.server.LIMITS[grpc.max_connection_age_ms]",
            "ms",
            (NONE, "GOAWAY; the client reconnects"),
            "tests/live/test_connection_limits.py::test_a_connection_that_is_old_enough_is_told_to_go",
        ),
    ),
    "Metrics port": (
        Bound(
            "Connections",
            "src.telemetry.metrics_server.MAX_CONNECTIONS",
            "",
            ("the oldest is closed", NONE),
            "tests/telemetry/test_metrics_server.py::test_idle_connections_keep_no_scraper_out_and_the_oldest_of_too_many_are_closed",
        ),
        Bound(
            "Request line and headers",
            "src.telemetry.metrics_server.MAX_HEAD_BYTES",
            "bytes",
            ("the connection is closed", NONE),
            "tests/telemetry/test_metrics_server.py::test_any_other_connection_ends_in_time",
        ),
        Bound(
            "Time to receive a request, to collect the metrics, and to send the response, each",
            "src.telemetry.metrics_server.STEP_SECONDS",
            "seconds",
            ("the connection is closed; 503 if collecting takes longer", NONE),
            "tests/telemetry/test_metrics_server.py::test_a_client_that_does_not_read_is_cut_off",
        ),
    ),
    "LLM calls and images": (
        Bound(
            "Characters of free text that reach the model",
            "src.prompt.MAX_FREE_TEXT",
            "",
            "the rest is cut off",
            "tests/test_prompt.py::test_free_text_is_stripped_and_cut_and_source_code_is_not",
        ),
        Bound(
            "Characters of one request to the model, tool rounds included",
            "src.request_guard.MAX_REQUEST_CHARS",
            "",
            ModelFailed,
            "tests/test_prompt.py::test_rounds_of_tools_are_bounded_too",
        ),
        Bound(
            "Tokens of one model response, thinking tokens included",
            "MAX_OUTPUT_TOKENS",
            "",
            "a text is cut off and marked; a structured output fails",
            "tests/live/test_gemini.py::test_the_limit_of_tokens_goes_with_every_call",
        ),
        Bound(
            "One line or event of the provider's response",
            "src.providers.wire.MAX_EVENT",
            "bytes",
            ModelFailed,
            "tests/providers/test_wire.py::test_what_never_ends_is_refused",
        ),
        Bound(
            "Duration of an LLM call, wall clock",
            "LLM_TIMEOUT",
            "ms",
            TimedOut,
            "tests/test_llm.py::test_a_call_that_hangs_ends_with_the_limit",
        ),
        Bound(
            "Tool rounds in one LLM call",
            "src.llm.MAX_TOOL_ROUNDS",
            "",
            ModelFailed,
            "tests/test_llm.py::test_a_model_that_asks_for_tools_for_ever_is_stopped",
        ),
        Bound(
            "Time to connect to the provider",
            "src.connection.CONNECT_SECONDS",
            "seconds",
            ModelFailed,
            "tests/test_connection.py::test_connecting_has_a_limit_of_its_own",
        ),
        Bound(
            "Size of an image",
            "src.images.fetch.MAX_BYTES",
            "bytes",
            InvalidInput,
            IMAGES + "test_what_is_no_usable_image_is_invalid_input",
        ),
        Bound(
            "Time to fetch an image, redirects included",
            "src.images.fetch.TIMEOUT",
            "seconds",
            InvalidInput,
            IMAGES + "test_a_server_that_drips_ends_with_the_limit",
        ),
        Bound(
            "All response heads of an image fetch together, 1xx responses included",
            "src.images.fetch.MAX_HEAD_BYTES",
            "bytes",
            InvalidInput,
            IMAGES + "test_what_a_hostile_host_sends_without_end_is_ended_by_its_amount",
        ),
        Bound(
            "Pieces (network reads) of an image, of any size",
            "src.images.fetch.MAX_SMALL_PIECES",
            "",
            InvalidInput,
            IMAGES + "test_what_a_hostile_host_sends_without_end_is_ended_by_its_amount",
        ),
        Bound(
            "Average size of further pieces, minimum",
            "src.images.fetch.MIN_PIECE_BYTES",
            "bytes",
            InvalidInput,
            IMAGES + "test_an_image_in_small_network_packets_or_chunks_is_read",
        ),
        Bound(
            "Redirects of an image URL",
            "src.images.fetch.MAX_REDIRECTS",
            "",
            InvalidInput,
            IMAGES + "test_three_redirects_are_followed",
        ),
    ),
    "Shared pools": (
        Bound(
            "Concurrent LLM calls; as many again may wait",
            "LLM_MAX_CONCURRENCY",
            "",
            Overloaded,
            LOAD + "test_beyond_the_bulkhead_callers_are_told_to_come_back",
        ),
        Bound(
            "LLM calls of one client, waiting ones included; its share of the next three pools is in proportion",
            "LLM_MAX_PER_CLIENT",
            "",
            Overloaded,
            "tests/live/test_shares.py::test_who_has_a_quarter_of_the_places_is_refused_over_both_protocols_and_nobody_else",
        ),
        Bound(
            "Time to wait for a place",
            "src.bulkhead.QUEUE_SECONDS",
            "seconds",
            Overloaded,
            "tests/test_bulkhead.py::test_who_has_waited_long_enough_is_refused_and_leaves_the_queue",
        ),
        Bound(
            "Images in memory; as many again may wait",
            "src.images.fetch.MAX_IMAGES",
            "",
            Overloaded,
            "tests/test_bulkhead.py::test_beyond_places_and_queue_one_is_refused_at_once",
        ),
        Bound(
            "Images being fetched; as many again may wait",
            "src.images.fetch.MAX_FETCHES",
            "",
            Overloaded,
            IMAGES + "test_one_client_has_two_fetches_at_once",
        ),
        Bound(
            "DNS lookups of hosts that callers name",
            "src.images.name_lookup.MAX_LOOKUPS",
            "",
            Overloaded,
            "tests/images/test_name_lookup.py::test_silent_servers_take_their_places_and_no_more",
        ),
        Bound(
            "Connections to the provider",
            "HTTPX_POOL_MAX",
            "",
            "the call waits for one, within LLM_TIMEOUT",
            LOAD + "test_the_pool_of_connections_is_that_of_the_sdk",
        ),
        Bound(
            "Idle connections to the provider",
            "HTTPX_POOL_MAX_KEEPALIVE",
            "",
            "further idle connections are closed",
            "tests/test_connection.py::test_clients_who_leave_at_any_moment_cost_no_place_in_the_pool",
        ),
        Bound(
            "Failures in a row until the circuit opens",
            "CB_FAILURE_THRESHOLD",
            "",
            CircuitOpen,
            "tests/live/test_circuit.py::test_after_the_fifth_failure_nobody_calls_the_llm",
        ),
        Bound(
            "Time until an open circuit lets a probe through",
            "CB_RECOVERY_TIMEOUT",
            "seconds",
            "one call passes as a probe",
            "tests/test_circuit_breaker.py::test_the_wait_it_names_is_the_wait_it_needs",
        ),
        Bound(
            "The same, if the provider's Retry-After is longer",
            "src.circuit_breaker.MAX_UPSTREAM_WAIT",
            "seconds",
            "one call passes as a probe",
            "tests/test_circuit_breaker.py::test_the_providers_own_wait_lengthens_the_recovery",
        ),
    ),
    "Memory": (
        Bound(
            "Results in the cache",
            "CACHE_MAX_SIZE",
            "",
            "the least recently used is removed",
            "tests/test_cache.py::test_beyond_its_size_the_least_recently_used_goes",
        ),
        Bound(
            "Size of all cached results",
            "CACHE_MAX_BYTES",
            "bytes",
            "the least recently used are removed",
            "tests/test_cache.py::test_its_bytes_are_bounded_and_the_least_recently_used_go",
        ),
        Bound(
            "Size of one result: CACHE_MAX_BYTES divided by",
            "src.cache.MAX_ENTRY_SHARE",
            "",
            "it is not cached",
            "tests/test_cache.py::test_a_value_too_large_for_its_part_of_the_bytes_is_answered_and_not_kept",
        ),
        Bound(
            "Age of a cached result",
            "CACHE_TTL",
            "seconds",
            "the next request makes a new LLM call",
            "tests/test_cache.py::test_an_answers_age_counts_from_the_end_of_its_call",
        ),
        Bound(
            "Pipelined requests that wait on one connection (uvicorn, gunicorn)",
            "src.lifecycle.uvicorn_http.MAX_PIPELINED",
            "",
            "the connection is closed",
            "tests/lifecycle/test_uvicorn_http.py::test_a_client_that_sends_requests_without_end_and_reads_none_is_cut_off",
        ),
        Bound(
            "Elements of X-Forwarded-For, from the right",
            "src.util.client_address.MAX_HOPS",
            "",
            "the rest is ignored",
            "tests/util/test_client_address.py::test_only_the_last_32_elements_count_however_they_are_spread_over_headers",
        ),
        Bound(
            "Length of an address in X-Forwarded-For",
            "src.util.client_address.MAX_ADDRESS",
            "characters",
            "it does not count as an address",
            "tests/util/test_client_address.py::test_a_very_long_address_is_none_and_not_remembered",
        ),
        Bound(
            "Token buckets of the rate limit, about 250 bytes each",
            "src.rate_limit.MAX_BUCKETS",
            "",
            "the least recently used is forgotten",
            "tests/test_rate_limit.py::test_never_more_than_the_cap_is_kept",
        ),
        Bound(
            "Callers whose probes of an open circuit are remembered",
            "src.circuit_breaker.MAX_TURNS",
            "",
            "the oldest is forgotten",
            "tests/test_circuit_breaker.py::test_what_it_remembers_of_callers_is_bounded",
        ),
        Bound(
            "Chunks of a stream that wait for a slow client",
            "src.runner.MAX_WAITING_CHUNKS",
            "",
            "further chunks are appended to the last one",
            "tests/test_runner.py::test_what_waits_for_a_reader_is_bounded",
        ),
        Bound(
            "Calls that the debug status page remembers",
            "src.telemetry.status.MAX_CALLS",
            "",
            "the oldest is forgotten",
            "tests/live/test_debug_pages.py::test_the_status_page_shows_what_goes_on",
        ),
    ),
    "Log lines": (
        Bound(
            "Characters of a client's text in a field, such as a path",
            "src.logs.redaction.MAX_CLIENT_TEXT",
            "",
            "the rest is cut off",
            "tests/logs/test_setup.py::test_what_a_client_wrote_is_cut_wherever_it_is_logged",
        ),
        Bound(
            "Value of a field",
            "src.logs.setup.MAX_FIELD_BYTES",
            "bytes",
            "the rest is cut off",
            "tests/logs/test_setup.py::test_a_line_is_json_of_at_most_16_kib",
        ),
        Bound(
            "A traceback",
            "src.logs.setup.MAX_TRACEBACK_BYTES",
            "bytes",
            "the beginning is cut off",
            "tests/logs/test_setup.py::test_a_long_traceback_keeps_its_end",
        ),
        Bound(
            "A line",
            "src.logs.writer.MAX_LINE_BYTES",
            "bytes",
            "the rest is cut off",
            "tests/logs/test_writer.py::test_a_long_line_is_cut_and_marked",
        ),
        Bound(
            "Lines that wait to be written",
            "src.logs.writer.MAX_QUEUED_LINES",
            "",
            "new lines are dropped and counted",
            "tests/logs/test_writer.py::test_a_stalled_reader_costs_the_newest_lines_and_gets_their_number",
        ),
        Bound(
            "Size of these lines",
            "src.logs.writer.MAX_QUEUED_BYTES",
            "bytes",
            "new lines are dropped and counted",
            "tests/logs/test_writer.py::test_a_stalled_reader_costs_the_newest_lines_and_gets_their_number",
        ),
        Bound(
            "A record of the access log among these, beside its method and path",
            "src.logs.access.RECORD_BYTES",
            "bytes",
            "new lines are dropped and counted",
            "tests/logs/test_writer.py::test_unrendered_lines_take_their_part_of_the_queue_until_they_are_written",
        ),
    ),
    "Stopping": (
        Bound(
            "Time for calls in flight after SIGTERM",
            "SHUTDOWN_GRACE",
            "seconds",
            ShuttingDown,
            "tests/live/test_shutdown.py::test_when_the_grace_is_over_everything_is_told_and_ended",
        ),
    ),
}

# Numbers in the code that do not limit input from outside, and why each is there.
OTHERS: dict[str, str] = {
    "src.rpc.server.LIMITS[grpc.keepalive_permit_without_calls]": "a switch",
    "src.rpc.health.RETRY_SECONDS": "a RetryInfo",
    "src.main.FILES_OF_OURS": "open files reserved for other uses than connections",
    "src.rest.endpoints.KEEP_ALIVE_SECONDS": "an interval",
    "src.util.scope.CLIENT_GONE": "a status",
    "src.lifecycle.server_parent.LOOK_SECONDS": "an interval",
    "src.lifecycle.stop_signals.TURNS_UNTIL_SERVING": "turns of the event loop in a start",
    "PORT": "an address",
    "GRPC_PORT": "an address",
    "METRICS_PORT": "an address",
    "WORKERS": "processes, set by the operator",
    "SENTRY_TRACES_SAMPLE_RATE": "a share",
    "src.callers.caller.SHARE_PREFIX": "the length of a prefix",
    "src.rate_limit.MAX_KNOWN_CALLERS": "cached objects; others are made again",
    "src.bulkhead.CLIENT_SHARE": "the default of a share",
    "src.cache.ENTRY_BYTES": "counted for each entry",
    "src.cache.EXPIRED_AT_ONCE": "a part of a clean-up",
    "src.cache.SWEPT_AT_ONCE": "a part of a clean-up",
    "src.cache.SWEEP_SECONDS": "an interval",
    "src.cache.MAX_JOINS": "calls of other callers to wait for before making one",
    "src.runner.RESULT_BYTES": "counted for each result",
    "src.images.fetch.HEAD_READ_BYTES": "a part of MAX_HEAD_BYTES",
    "src.connection.IDLE_SECONDS": "closes our own idle connections to the provider",
    "src.images.name_lookup.RETRY_SECONDS": "a Retry-After",
    "src.logs.redaction.MIN_SECRET": "the shortest secret",
    "src.logs.redaction._MAX_READ": "characters searched before a text is cut to MAX_CLIENT_TEXT",
    "src.telemetry.metrics.SAMPLE_SECONDS": "an interval",
    "src.telemetry.metrics_file.NEW_BYTES": "the length of a new file",
    "src.telemetry.metrics_file.HEAD_BYTES": "counted for each file",
    "src.telemetry.metrics_file.ENTRY_BYTES": "counted for each value",
    "src.telemetry.status.WINDOW_SECONDS": "an interval",
    "src.telemetry.status.MAX_SHOWN": "rows of a page",
    "src.telemetry.traces.MAX_FLUSH_SECONDS": "within SHUTDOWN_GRACE",
    "src.telemetry.traces.MIN_FLUSH_SECONDS": "within SHUTDOWN_GRACE",
    "src.telemetry.traces.SERVER_ERROR": "a status",
    "src.middleware.compression.PARTIAL_CONTENT": "a status",
    "src.middleware.compression.MIN_COMPRESSED_BYTES": "the shortest response that is compressed",
    "src.middleware.responses.SECONDS_TO_SEND": "after REQUEST_TIMEOUT, or within SHUTDOWN_GRACE",
    "src.lifecycle.lifespan.ACCEPTING_SECONDS": "within SHUTDOWN_GRACE",
    "src.drain.CUT_SECONDS": "added to SHUTDOWN_GRACE",
    "src.lifecycle.lifespan.STATUS_FLUSH_SECONDS": "added to SHUTDOWN_GRACE",
    "src.lifecycle.lifespan.LAST_WORK_SECONDS": "added to SHUTDOWN_GRACE",
    "src.lifecycle.lifespan.EXIT_SECONDS": "added to SHUTDOWN_GRACE",
    "src.logs.writer.BATCH_SECONDS": "an interval",
    "src.logs.writer.PROMPT_SECONDS": "a wait for the lines of the start",
    "src.logs.writer.EXIT_SECONDS": "a wait for the last lines",
    "src.providers.offline.CHUNK_DELAY": "the embedded model's own",
    "src.providers.offline.WORDS_PER_CHUNK": "the embedded model's own",
    "src.providers.offline.QUOTED_CHARS": "the embedded model's own",
}


def bounds() -> list[Bound]:
    """Return all bounds."""
    return [bound for group in BOUNDS.values() for bound in group]


def bounds_tables() -> str:
    """Return a table for each group: the limit, its value, the response when it is exceeded, and the test."""
    head = ("Limit on", "Value", "When exceeded, REST", "When exceeded, gRPC", "Test")
    return "\n\n".join(f"## {name}\n\n" + table(head, map(_row, group)) for name, group in BOUNDS.items())


def _row(bound: Bound) -> tuple[str, ...]:
    rest, grpc = outcomes(bound.beyond)
    where = f"[`{bound.place}`](configuration.md#{bound.place.lower()})" if is_setting(bound.place) else "fixed"
    return bound.limits, f"{written(bound)}<br>{where}", rest, grpc, code(bound.test)


def written(bound: Bound) -> str:
    """Return the value as text, with its unit."""
    value = value_of(bound.place)
    number = f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else value
    return f"{number} {bound.unit}".strip()


def value_of(place: str) -> int | float | str:
    """Return the value from the code: a setting's default in production, or the constant's value."""
    value: Any
    if is_setting(place):
        value = Settings.model_fields[place.lower()].get_default(call_default_factory=True, validated_data={})
        return cast("int | float | str", value)
    found = _CONSTANT.fullmatch(place)
    if found is None:
        raise ValueError(f"{place} is no setting and no module.NAME")
    value = getattr(import_module(found["module"]), found["name"])
    return cast("int | float | str", value if found["key"] is None else dict(value)[found["key"]])


def is_setting(place: str) -> bool:
    """True if it is a setting, not a constant."""
    return "." not in place


def outcomes(beyond: Outcome) -> tuple[str, str]:
    """Return the response when a bound is exceeded, over REST and over gRPC."""
    if isinstance(beyond, tuple):
        return beyond
    if isinstance(beyond, str):
        return beyond, beyond
    return f"{beyond.http_status} {beyond.title}", code(beyond.grpc_code)
