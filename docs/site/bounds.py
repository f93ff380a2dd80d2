"""The page of bounds: every limit on what comes from outside, with the value that the code has for it."""

import re
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

from docs.site.markdown_table import code, table
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

Outcome = type[ServiceError] | tuple[str, str] | str
_CONSTANT = re.compile(r"(?P<module>[\w.]+)\.(?P<name>\w+)(\[(?P<key>[\w.]+)\])?")


@dataclass(frozen=True, slots=True)
class Bound:
    """One limit.

    Attributes:
        limits: The thing that is bounded.
        place: The setting's variable, or the constant as `module.NAME`, in a table of options as `module.NAME[key]`.
        unit: Of the value.
        beyond: What exceeding it gets: the table's failure, what happens over REST and over gRPC, or over both.
        test: Shows it, as pytest names it.
    """

    limits: str
    place: str
    unit: str
    beyond: Outcome
    test: str


SECURITY, LIMITS, ATTACKS = "tests/test_security.py::", "tests/live/test_bounds.py::", "tests/live/test_attacks.py::"
HEALTH = "tests/live/test_grpc_bounds.py::"
IMAGES, LOAD = "tests/test_image_fetch.py::", "tests/live/test_load.py::"
NONE = "nothing"

BOUNDS: dict[str, tuple[Bound, ...]] = {
    "Requests and RPCs": (
        Bound(
            "A request's body, an RPC's message",
            "MAX_BODY_SIZE",
            "bytes",
            PayloadTooLarge,
            SECURITY + "test_every_answer_of_every_framework_is_hardened_and_traceable",
        ),
        Bound(
            "Pieces that a request's body comes in, of any size",
            "src.security.FREE_PIECES",
            "",
            (f"{PayloadTooLarge.http_status} {PayloadTooLarge.title}", NONE),
            SECURITY + "test_a_body_in_very_many_pieces_is_refused",
        ),
        Bound(
            "Bytes that each further piece has, on average",
            "src.security.MIN_PIECE_BYTES",
            "bytes",
            (f"{PayloadTooLarge.http_status} {PayloadTooLarge.title}", NONE),
            SECURITY + "test_a_body_in_very_many_pieces_is_refused",
        ),
        Bound(
            "Digits of a `Content-Length`",
            "src.security.MAX_LENGTH_DIGITS",
            "",
            (f"{PayloadTooLarge.http_status} {PayloadTooLarge.title}", NONE),
            SECURITY + "test_every_answer_of_every_framework_is_hardened_and_traceable",
        ),
        Bound(
            "Request line and headers together, under granian",
            "src.main.MAX_HEADER_BYTES",
            "bytes",
            ("431, by the server", NONE),
            ATTACKS + "test_an_attack_on_the_rest_port_is_refused",
        ),
        Bound(
            "The same under uvicorn and gunicorn; and what follows it that is no body, such as trailers",
            "src.util.uvicorn_http.MAX_HEAD_BYTES",
            "bytes",
            ("431 Request Header Fields Too Large", NONE),
            "tests/util/test_uvicorn_http.py::test_what_comes_without_end_and_is_no_body_is_refused_by_its_amount",
        ),
        Bound(
            "An RPC's metadata",
            "src.grpc_server.LIMITS[grpc.max_metadata_size]",
            "bytes",
            (NONE, "`RESOURCE_EXHAUSTED`"),
            LIMITS + "test_metadata_over_the_limit_is_refused",
        ),
        Bound(
            "All of a request or RPC, its upload and its stream included",
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
            "Bytes of a body that nobody reads, for the connection to survive",
            "src.util.unread_body.MAX_BYTES",
            "bytes",
            ("the connection is closed after the response", NONE),
            "tests/util/test_unread_body.py::test_a_long_body_is_left",
        ),
        Bound(
            "Pieces of such a body",
            "src.util.unread_body.MAX_PIECES",
            "",
            ("the connection is closed after the response", NONE),
            "tests/util/test_unread_body.py::test_a_body_in_many_pieces_is_left",
        ),
        Bound(
            "Time for such a body",
            "src.util.unread_body.MAX_SECONDS",
            "seconds",
            ("the connection is closed after the response", NONE),
            "tests/util/test_unread_body.py::test_a_slow_body_is_left",
        ),
        Bound(
            "Messages of one RPC's request",
            "src.grpc_requests.MAX_MESSAGES",
            "",
            (NONE, code(PayloadTooLarge.grpc_code)),
            "tests/test_grpc_bounds.py::test_a_stream_of_requests_has_so_many_messages_and_no_more",
        ),
        Bound(
            "Telling the status of a failure to a client that does not read",
            "src.grpc_interceptors.ABORT_SECONDS",
            "seconds",
            (NONE, "the RPC is cancelled"),
            "tests/test_grpc_bounds.py::test_the_status_of_a_failure_waits_only_so_long_for_a_client_that_does_not_read",
        ),
    ),
    "Health checks, which have no rate limit": (
        Bound(
            "An RPC's message, which names a service",
            "src.grpc_requests.MAX_PROBE_BYTES",
            "bytes",
            (NONE, code(PayloadTooLarge.grpc_code)),
            HEALTH + "test_a_probe_with_a_long_name_is_refused",
        ),
        Bound(
            "All of an RPC; of a watch, up to its message",
            "src.grpc_hooks.PROBE_SECONDS",
            "seconds",
            (NONE, code(TimedOut.grpc_code)),
            HEALTH + "test_a_probe_has_less_time_than_other_rpcs",
        ),
        Bound(
            "RPCs of one client whose message has not come",
            "src.grpc_requests.MAX_WAITING_PROBES",
            "",
            (NONE, "the oldest is ended"),
            HEALTH + "test_of_too_many_probes_without_a_message_the_oldest_give_way",
        ),
        Bound(
            "Watches of one client",
            "src.grpc_health.MAX_WATCHES",
            "",
            (NONE, f"{code(Overloaded.grpc_code)}, RetryInfo"),
            HEALTH + "test_a_client_has_four_watches_on_however_many_connections",
        ),
        Bound(
            "Age of a watch, less up to a tenth",
            "src.grpc_health.WATCH_SECONDS",
            "seconds",
            (NONE, "it ends"),
            "tests/test_grpc_bounds.py::test_a_watch_ends_when_it_is_old_enough",
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
            "An idle connection",
            "KEEP_ALIVE_TIMEOUT",
            "seconds",
            "the connection is closed",
            LIMITS + "test_an_idle_connection_is_closed",
        ),
        Bound(
            "Streams of one HTTP/2 connection on the REST port",
            "src.main.MAX_STREAMS",
            "",
            ("the client's next stream waits", NONE),
            "tests/live/test_connection_limits.py::test_the_rest_port_names_its_maximum_of_streams",
        ),
        Bound(
            "RPCs in flight on one connection",
            "src.grpc_server.LIMITS[grpc.max_concurrent_streams]",
            "",
            (NONE, "the client's next RPC waits"),
            LIMITS + "test_rpcs_beyond_what_a_connection_takes_wait",
        ),
        Bound(
            "Time between pings of the server to a silent client",
            "src.grpc_server.LIMITS[grpc.keepalive_time_ms]",
            "ms",
            (NONE, NONE),
            "tests/live/test_connection_limits.py::test_a_client_that_answers_no_ping_is_disconnected",
        ),
        Bound(
            "Time that a client has for the answer to such a ping",
            "src.grpc_server.LIMITS[grpc.http2.ping_timeout_ms]",
            "ms",
            (NONE, "the connection is closed"),
            "tests/live/test_connection_limits.py::test_a_client_that_answers_no_ping_is_disconnected",
        ),
        Bound(
            "Time between a client's pings, at least",
            "src.grpc_server.LIMITS[grpc.http2.min_ping_interval_without_data_ms]",
            "ms",
            (NONE, "a strike"),
            "tests/live/test_connection_limits.py::test_a_client_that_pings_too_often_is_disconnected",
        ),
        Bound(
            "Such strikes",
            "src.grpc_server.LIMITS[grpc.http2.max_ping_strikes]",
            "",
            (NONE, "the connection is closed: `too_many_pings`"),
            "tests/live/test_connection_limits.py::test_a_client_that_pings_too_often_is_disconnected",
        ),
        Bound(
            "Age of a connection",
            "src.grpc_server.LIMITS[grpc.max_connection_age_ms]",
            "ms",
            (NONE, "GOAWAY: the client connects anew"),
            "tests/live/test_connection_limits.py::test_a_connection_that_is_old_enough_is_told_to_go",
        ),
    ),
    "The metrics' port": (
        Bound(
            "Connections",
            "src.observability.metrics_server.MAX_CONNECTIONS",
            "",
            ("the oldest is closed", NONE),
            "tests/test_metrics_server.py::test_idle_connections_keep_no_scraper_out_and_the_oldest_of_too_many_are_closed",
        ),
        Bound(
            "A request's head",
            "src.observability.metrics_server.MAX_HEAD_BYTES",
            "bytes",
            ("the connection is closed", NONE),
            "tests/test_metrics_server.py::test_any_other_connection_ends_in_time",
        ),
        Bound(
            "A request to arrive, the metrics to be read, and the response to leave, each",
            "src.observability.metrics_server.STEP_SECONDS",
            "seconds",
            ("the connection is closed; 503 while the metrics are read", NONE),
            "tests/test_metrics_server.py::test_a_client_that_does_not_read_is_cut_off",
        ),
    ),
    "What a request costs": (
        Bound(
            "Characters of free text that reach the model",
            "src.prompt.MAX_FREE_TEXT",
            "",
            "the rest is cut off",
            "tests/test_prompt.py::test_free_text_is_stripped_and_cut_and_source_code_is_not",
        ),
        Bound(
            "Characters of one request to the model, rounds of tools included",
            "src.request_guard.MAX_REQUEST_CHARS",
            "",
            ModelFailed,
            "tests/test_prompt.py::test_rounds_of_tools_are_bounded_too",
        ),
        Bound(
            "Tokens of one answer of the model, its thinking included",
            "MAX_OUTPUT_TOKENS",
            "",
            "a text is cut off and marked; a structured answer fails as one that breaks its schema",
            "tests/live/test_gemini.py::test_the_limit_of_tokens_goes_with_every_call",
        ),
        Bound(
            "A line or event of the provider's response",
            "src.providers.wire.MAX_EVENT",
            "bytes",
            ModelFailed,
            "tests/providers/test_wire.py::test_what_never_ends_is_refused",
        ),
        Bound(
            "One LLM call, wall clock",
            "LLM_TIMEOUT",
            "ms",
            TimedOut,
            "tests/test_llm.py::test_a_call_that_hangs_ends_with_the_limit",
        ),
        Bound(
            "Rounds of tools in one LLM call",
            "src.llm.MAX_TOOL_ROUNDS",
            "",
            ModelFailed,
            "tests/test_llm.py::test_a_model_that_asks_for_tools_for_ever_is_stopped",
        ),
        Bound(
            "Connecting to the provider",
            "src.connection.CONNECT_SECONDS",
            "seconds",
            ModelFailed,
            "tests/test_connection.py::test_connecting_has_a_limit_of_its_own",
        ),
        Bound(
            "Bytes of an image",
            "src.image_fetch.MAX_BYTES",
            "bytes",
            InvalidInput,
            IMAGES + "test_what_is_no_usable_image_is_invalid_input",
        ),
        Bound(
            "Fetching an image, redirects included",
            "src.image_fetch.TIMEOUT",
            "seconds",
            InvalidInput,
            IMAGES + "test_a_server_that_drips_ends_with_the_limit",
        ),
        Bound(
            "All heads of an image's response together, those of 1xx responses included",
            "src.image_fetch.MAX_HEAD_BYTES",
            "bytes",
            InvalidInput,
            IMAGES + "test_what_a_hostile_host_sends_without_end_is_ended_by_its_amount",
        ),
        Bound(
            "Pieces of an image, of any size",
            "src.image_fetch.MAX_SMALL_PIECES",
            "",
            InvalidInput,
            IMAGES + "test_what_a_hostile_host_sends_without_end_is_ended_by_its_amount",
        ),
        Bound(
            "Average size of the pieces beyond these, at least",
            "src.image_fetch.MIN_PIECE_BYTES",
            "bytes",
            InvalidInput,
            IMAGES + "test_an_image_in_small_network_packets_or_chunks_is_read",
        ),
        Bound(
            "Redirects of an image",
            "src.image_fetch.MAX_REDIRECTS",
            "",
            InvalidInput,
            IMAGES + "test_three_redirects_are_followed",
        ),
    ),
    "Shared pools": (
        Bound(
            "LLM calls in flight; as many again wait",
            "LLM_MAX_CONCURRENCY",
            "",
            Overloaded,
            LOAD + "test_beyond_the_bulkhead_callers_are_told_to_come_back",
        ),
        Bound(
            "LLM calls of one client, waiting ones included; of the other pools here in proportion",
            "LLM_MAX_PER_CLIENT",
            "",
            Overloaded,
            "tests/live/test_shares.py::test_who_has_a_quarter_of_the_places_is_refused_over_both_protocols_and_nobody_else",
        ),
        Bound(
            "Waiting for a place",
            "src.bulkhead.QUEUE_SECONDS",
            "seconds",
            Overloaded,
            "tests/test_bulkhead.py::test_who_has_waited_long_enough_is_refused_and_leaves_the_queue",
        ),
        Bound(
            "Images in memory; as many again wait",
            "src.image_fetch.MAX_IMAGES",
            "",
            Overloaded,
            "tests/test_bulkhead.py::test_beyond_places_and_queue_one_is_refused_at_once",
        ),
        Bound(
            "Images being fetched; as many again wait",
            "src.image_fetch.MAX_FETCHES",
            "",
            Overloaded,
            IMAGES + "test_one_client_has_two_fetches_at_once",
        ),
        Bound(
            "Look-ups of names that callers chose",
            "src.util.name_lookup.MAX_LOOKUPS",
            "",
            Overloaded,
            "tests/util/test_name_lookup.py::test_silent_servers_take_their_places_and_no_more",
        ),
        Bound(
            "Connections to the provider",
            "HTTPX_POOL_MAX",
            "",
            "the call waits for one, within its time",
            LOAD + "test_the_pool_of_connections_is_that_of_the_sdk",
        ),
        Bound(
            "Idle ones of these",
            "HTTPX_POOL_MAX_KEEPALIVE",
            "",
            NONE,
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
            "An open circuit, until its next probe",
            "CB_RECOVERY_TIMEOUT",
            "seconds",
            "one call passes as a probe",
            "tests/test_circuit_breaker.py::test_the_wait_it_names_is_the_wait_it_needs",
        ),
        Bound(
            "The same, where the provider asks for more",
            "src.circuit_breaker.MAX_UPSTREAM_WAIT",
            "seconds",
            "one call passes as a probe",
            "tests/test_circuit_breaker.py::test_the_providers_own_wait_lengthens_the_recovery",
        ),
    ),
    "Memory": (
        Bound(
            "Answers in the cache",
            "CACHE_MAX_SIZE",
            "",
            "the least recently used leaves",
            "tests/test_cache.py::test_beyond_its_size_the_least_recently_used_goes",
        ),
        Bound(
            "Bytes of these answers",
            "CACHE_MAX_BYTES",
            "bytes",
            "the least recently used leave",
            "tests/test_cache.py::test_its_bytes_are_bounded_and_the_least_recently_used_go",
        ),
        Bound(
            "One answer, as a part of these bytes: one of",
            "src.cache.MAX_ENTRY_SHARE",
            "",
            "it is not cached",
            "tests/test_cache.py::test_a_value_too_large_for_its_part_of_the_bytes_is_answered_and_not_kept",
        ),
        Bound(
            "Age of a cached answer",
            "CACHE_TTL",
            "seconds",
            "it is asked for anew",
            "tests/test_cache.py::test_an_answers_age_counts_from_the_end_of_its_call",
        ),
        Bound(
            "Requests that wait on one connection for an earlier one's response (uvicorn, gunicorn)",
            "src.util.uvicorn_http.MAX_PIPELINED",
            "",
            "the connection is closed",
            "tests/util/test_uvicorn_http.py::test_a_client_that_sends_requests_without_end_and_reads_none_is_cut_off",
        ),
        Bound(
            "Elements of X-Forwarded-For that are read, from the right",
            "src.util.client_address.MAX_HOPS",
            "",
            "the rest doesn't count",
            "tests/util/test_client_address.py::test_only_the_last_32_elements_count_however_they_are_spread_over_headers",
        ),
        Bound(
            "An address in X-Forwarded-For",
            "src.util.client_address.MAX_ADDRESS",
            "characters",
            "it is no address",
            "tests/util/test_client_address.py::test_a_very_long_address_is_none_and_not_remembered",
        ),
        Bound(
            "Buckets of the rate limit, about 250 bytes each",
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
            "Chunks of a stream that wait for a slow reader",
            "src.runner.MAX_WAITING_CHUNKS",
            "",
            "more are joined to the last one",
            "tests/test_runner.py::test_what_waits_for_a_reader_is_bounded",
        ),
        Bound(
            "Calls that the status page in debug remembers",
            "src.observability.status.MAX_CALLS",
            "",
            "the oldest is forgotten",
            "tests/live/test_debug_pages.py::test_the_status_page_shows_what_goes_on",
        ),
    ),
    "Log lines": (
        Bound(
            "Characters of a client's text, such as a path",
            "src.observability.redaction.MAX_CLIENT_TEXT",
            "",
            "the rest is cut off",
            "tests/test_logs.py::test_what_a_client_wrote_is_cut_wherever_it_is_logged",
        ),
        Bound(
            "A field's value",
            "src.observability.logs.MAX_FIELD_BYTES",
            "bytes",
            "the rest is cut off",
            "tests/test_logs.py::test_a_line_is_json_of_at_most_16_kib",
        ),
        Bound(
            "A traceback",
            "src.observability.logs.MAX_TRACEBACK_BYTES",
            "bytes",
            "its beginning is cut off",
            "tests/test_logs.py::test_a_long_traceback_keeps_its_end",
        ),
        Bound(
            "A line",
            "src.observability.log_writer.MAX_LINE_BYTES",
            "bytes",
            "the rest is cut off",
            "tests/test_log_writer.py::test_a_long_line_is_cut_and_marked",
        ),
        Bound(
            "Lines that wait for a reader of the log",
            "src.observability.log_writer.MAX_QUEUED_LINES",
            "",
            "new lines are dropped and counted",
            "tests/test_log_writer.py::test_a_stalled_reader_costs_the_newest_lines_and_gets_their_number",
        ),
        Bound(
            "Bytes of these",
            "src.observability.log_writer.MAX_QUEUED_BYTES",
            "bytes",
            "new lines are dropped and counted",
            "tests/test_log_writer.py::test_a_stalled_reader_costs_the_newest_lines_and_gets_their_number",
        ),
        Bound(
            "What a line of the access log counts as among these",
            "src.observability.log_writer.UNRENDERED_BYTES",
            "bytes",
            "new lines are dropped and counted",
            "tests/test_log_writer.py::test_unrendered_lines_take_their_part_of_the_queue_until_they_are_written",
        ),
    ),
    "Stopping": (
        Bound(
            "Work in flight after SIGTERM",
            "SHUTDOWN_GRACE",
            "seconds",
            ShuttingDown,
            "tests/live/test_shutdown.py::test_when_the_grace_is_over_everything_is_told_and_ended",
        ),
    ),
}

# Numbers in the code that bound nothing which a client, a model or a host decides, and why they are here.
OTHERS: dict[str, str] = {
    "src.grpc_server.LIMITS[grpc.keepalive_permit_without_calls]": "a switch",
    "src.grpc_health.RETRY_SECONDS": "a RetryInfo",
    "src.main.FILES_OF_OURS": "files kept for other uses than connections",
    "src.rest_endpoints.KEEP_ALIVE_SECONDS": "an interval",
    "src.util.scope.CLIENT_GONE": "a status",
    "src.util.server_parent.LOOK_SECONDS": "an interval",
    "src.util.stop_signals.TURNS_UNTIL_SERVING": "turns of the event loop in a start",
    "PORT": "an address",
    "GRPC_PORT": "an address",
    "METRICS_PORT": "an address",
    "WORKERS": "processes, set by the operator",
    "SENTRY_TRACES_SAMPLE_RATE": "a share",
    "src.caller.SHARE_PREFIX": "the length of a prefix",
    "src.rate_limit.MAX_KNOWN_CALLERS": "callers that are kept made; others are made anew",
    "src.bulkhead.CLIENT_SHARE": "a share, where no setting gives one",
    "src.cache.ENTRY_BYTES": "counted for each entry",
    "src.cache.EXPIRED_AT_ONCE": "a part of a clean-up",
    "src.cache.SWEPT_AT_ONCE": "a part of a clean-up",
    "src.cache.SWEEP_SECONDS": "an interval",
    "src.cache.MAX_JOINS": "calls of others that a caller waits for before one of its own",
    "src.runner.RESULT_BYTES": "counted for each result",
    "src.image_fetch.HEAD_READ_BYTES": "a part of MAX_HEAD_BYTES",
    "src.connection.IDLE_SECONDS": "closes idle connections of ours to the provider",
    "src.util.name_lookup.RETRY_SECONDS": "a Retry-After",
    "src.observability.redaction.MIN_SECRET": "the shortest secret",
    "src.observability.redaction._MAX_READ": "characters searched before a text is cut to MAX_CLIENT_TEXT",
    "src.observability.metrics.SAMPLE_SECONDS": "an interval",
    "src.observability.metrics_file.NEW_BYTES": "the length of a new file",
    "src.observability.metrics_file.HEAD_BYTES": "counted for each file",
    "src.observability.metrics_file.ENTRY_BYTES": "counted for each value",
    "src.observability.status.WINDOW_SECONDS": "an interval",
    "src.observability.status.MAX_SHOWN": "rows of a page",
    "src.observability.traces.MAX_FLUSH_SECONDS": "within SHUTDOWN_GRACE",
    "src.observability.traces.MIN_FLUSH_SECONDS": "within SHUTDOWN_GRACE",
    "src.observability.traces.SERVER_ERROR": "a status",
    "src.security.PARTIAL_CONTENT": "a status",
    "src.security.MIN_COMPRESSED_BYTES": "the shortest response that is compressed",
    "src.responses.SECONDS_TO_SEND": "after REQUEST_TIMEOUT, or within SHUTDOWN_GRACE",
    "src.service.ACCEPTING_SECONDS": "within SHUTDOWN_GRACE",
    "src.service.STATUS_SECONDS": "added to SHUTDOWN_GRACE",
    "src.service.LAST_WORK_SECONDS": "added to SHUTDOWN_GRACE",
    "src.service.EXIT_SECONDS": "added to SHUTDOWN_GRACE",
    "src.observability.log_writer.BATCH_SECONDS": "an interval",
    "src.observability.log_writer.PROMPT_SECONDS": "a wait of the start's own lines",
    "src.observability.log_writer.EXIT_SECONDS": "a wait of the last lines",
    "src.providers.offline.CHUNK_DELAY": "the embedded model's own",
    "src.providers.offline.WORDS_PER_CHUNK": "the embedded model's own",
    "src.providers.offline.QUOTED_CHARS": "the embedded model's own",
}


def bounds() -> list[Bound]:
    """All of them."""
    return [bound for group in BOUNDS.values() for bound in group]


def bounds_tables() -> str:
    """A table for each group: the limit, its value, what exceeding it gets over each protocol, and the test."""
    head = ("What is bounded", "Bound", "Beyond it, REST", "Beyond it, gRPC", "Shown by")
    return "\n\n".join(f"## {name}\n\n" + table(head, map(_row, group)) for name, group in BOUNDS.items())


def _row(bound: Bound) -> tuple[str, ...]:
    rest, grpc = outcomes(bound.beyond)
    where = f"[`{bound.place}`](configuration.md#{bound.place.lower()})" if is_setting(bound.place) else "fixed"
    return bound.limits, f"{written(bound)}<br>{where}", rest, grpc, code(bound.test)


def written(bound: Bound) -> str:
    """The default or constant as a reader takes it in, with its unit."""
    value = value_of(bound.place)
    number = f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else value
    return f"{number} {bound.unit}".strip()


def value_of(place: str) -> int | float | str:
    """The value in the code: a setting's default in production, or a constant's."""
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
    """Return the response to exceeding a bound, over REST and over gRPC."""
    if isinstance(beyond, tuple):
        return beyond
    if isinstance(beyond, str):
        return beyond, beyond
    return f"{beyond.http_status} {beyond.title}", code(beyond.grpc_code)
