"""Paths of health probes: exempt from host check and rate limit, logged at debug level only."""

LIVENESS_PATHS = ("/health", "/healthz")
READINESS_PATHS = ("/ready", "/readyz")
PROBE_PATHS = frozenset(LIVENESS_PATHS + READINESS_PATHS)
# The debug status page polls once a second, so it is neither limited nor logged.
STATUS_PATH = "/debug/status"
STATUS_PATHS = frozenset({STATUS_PATH, f"{STATUS_PATH}.json"})
