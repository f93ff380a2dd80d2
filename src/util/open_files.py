"""The limit of open files, which every connection counts against."""

import resource


def raise_open_file_limit() -> int:
    """Raise this process's soft limit to the hard one, as Go's runtime does at start, and return it.

    The usual soft limit of 1,024 is for programs that use select(2); one client could fill it with idle connections.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1 << 30
