"""The limit of open files. Every connection counts against it."""

import resource


def raise_open_file_limit() -> int:
    """Raise the soft limit of this process to the hard limit, as Go's runtime does at start, and return it.

    The usual soft limit of 1,024 exists for programs that use select(2). One client could exhaust it with idle
    connections.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1 << 30
