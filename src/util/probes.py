"""The paths that orchestrators probe: exempt from host check and rate limit, logged at debug level only."""

LIVENESS_PATHS = ("/health", "/healthz")
READINESS_PATHS = ("/ready", "/readyz")
PROBE_PATHS = frozenset(LIVENESS_PATHS + READINESS_PATHS)
# Debug's status page asks once a second: neither limited nor logged, where it exists.
STATUS_PATH = "/debug/status"
STATUS_PATHS = frozenset({STATUS_PATH, f"{STATUS_PATH}.json"})
