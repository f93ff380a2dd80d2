"""The paths that orchestrators probe: exempt from host check and rate limit, logged at debug level only."""

LIVENESS_PATHS = ("/health", "/healthz")
READINESS_PATHS = ("/ready", "/readyz")
PROBE_PATHS = frozenset(LIVENESS_PATHS + READINESS_PATHS)
