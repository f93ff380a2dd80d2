"""Remove secrets and credentials, exception messages and terminal control characters from log lines."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from traceback import StackSummary, format_list, walk_tb
from types import TracebackType
from typing import Any

import orjson
from structlog.typing import EventDict, WrappedLogger

from src.errors import ServiceError

HIDDEN = "***"
# Hiding shorter secrets would hide ordinary words. No service issues any.
MIN_SECRET = 6

_SECRET_NAME = re.compile(
    r"api[_-]?key|authorization|cookie|credential|passw|private[_-]?key|secret|^(.*[_-])?(dsn|key|token)$",
    re.IGNORECASE,
)
# Pattern of a secret, its replacement, and a text that a lower-case line must contain before the pattern is tried.
# Clients' text is matched too, so each pattern must take linear time: a test measures that.
_SECRET_LOOKS = [
    (hint, re.compile(pattern, re.IGNORECASE | re.ASCII), start + HIDDEN)
    for pattern, start, hints in (
        (r"\b((?:bearer|basic) ++)[a-z0-9+/=._~-]{6,}+", r"\1", ("bearer ", "basic ")),
        (r"\bAIza[a-z0-9_-]{20,}+", "", ("aiza",)),  # Google
        (r"\b(?:sk|gh[opsu]|xox[abp])[-_][a-z0-9_-]{16,}+", "", ("sk-", "sk_", "gh", "xox")),  # OpenAI, GitHub, Slack
        (r"\b(?-i:eyJ)[a-z0-9_-]{10,}+(?:\.[a-z0-9_-]*+){0,2}", "", ("eyj",)),  # JSON web tokens, cut ones too
        (r"(://)[^/\s:@\"']++:[^/\s@\"']++(?=@)", r"\1", ("://",)),  # credentials in a URL
        (
            r"((?:api[_-]?key|access_token|password|secret)[\"'\\]*+\s*+[=:]\s*+[\"'\\]*+)[^\s\"'&,;}\\]{4,}+",
            r"\1",
            ("api", "access_token", "password", "secret"),
        ),
    )
    for hint in hints
]

# Characters of one client-written string (a path, a method) in a log line, a span or an event; longer ones are cut.
MAX_CLIENT_TEXT = 256
CUT = "…"
_MAX_READ = 1024  # characters that are searched for secrets before the cut

# Colour sequences, which can do nothing else.
_COLOUR = r"\x1b\[[0-9;]*m"
# Characters that move the cursor, reverse text or can't be encoded: all controls but tab and line feed,
# Unicode's marks of direction, lone surrogates.
_OBEYED = r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
_COLOUR_OR_OBEYED = re.compile(f"{_COLOUR}|{_OBEYED}")

# Exceptions that never quote a request: the service's own, and those of a failed start.
_SPEAKING = (ServiceError, OSError, ImportError)


class Redactor:
    """Hides secrets, by the names of their fields and by patterns.

    Args:
        secrets: The secret values that this process has.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        known = {form for secret in secrets for form in _forms(secret)}
        self._known = sorted(known, key=len, reverse=True)

    def by_name(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """Processor that hides the values of fields with secret names, nested ones included."""
        exc_info = {"exc_info": event["exc_info"]} if "exc_info" in event else {}  # has to stay a tuple
        return {name: HIDDEN if _is_secret(name) else _within(value) for name, value in event.items()} | exc_info

    def by_value(self, _logger: WrappedLogger, _method: str, line: Any) -> str:
        """Processor for the rendered line that hides secret values."""
        return self.text(line)

    def text(self, text: str) -> str:
        """Hide known secrets, and everything that looks like a secret."""
        for secret in self._known:
            if secret in text:
                text = text.replace(secret, HIDDEN)
        return hide_looks(text)


def hide_looks(text: str) -> str:
    """Hide everything that looks like a secret."""
    small = text.lower()
    for hint, look, replacement in _SECRET_LOOKS:
        if hint in small:
            text = look.sub(replacement, text)
    return text


@lru_cache(1024)
def _is_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def _forms(secret: str) -> set[str]:
    """Return the secret and each of its lines, plain and as JSON escapes. Headers are sent without line ends."""
    parts = {secret, *(line.strip() for line in secret.splitlines())}
    return {form for part in parts if len(part) >= MIN_SECRET for form in (part, _in_json(part))}


def _in_json(secret: str) -> str:
    return orjson.dumps(secret).decode()[1:-1]


def _within(value: Any) -> Any:
    if isinstance(value, (str, int, float)):
        return value
    if isinstance(value, Mapping):
        return {
            name: HIDDEN if isinstance(name, str) and _is_secret(name) else _within(item)
            for name, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_within(item) for item in value]
    return value


def client_text(text: str) -> str:
    """Return a client's string as printable text of at most 256 characters, with `…` at the end if it was cut."""
    if len(text) > MAX_CLIENT_TEXT:
        text = hide_looks(text[:_MAX_READ])[:MAX_CLIENT_TEXT] + CUT
    return escape_unprintable(text)


def escape_unprintable(text: str) -> str:
    """Escape unprintable characters, such as `\\x1b`, so that the text stays on one line.

    Clients must not write log lines of their own, or control a terminal (CWE-117, CWE-150).
    """
    return text if text.isprintable() else "".join(char if char.isprintable() else _escape(char) for char in text)


def only_colours(_logger: WrappedLogger, _method: str, line: Any) -> str:
    """Processor for coloured lines: of all terminal control sequences only colours remain."""
    return _COLOUR_OR_OBEYED.sub(lambda found: found[0] if len(found[0]) > 1 else _escape(found[0]), line)


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode()


def quiet_traceback(error: BaseException) -> str:
    """Return a traceback with types and places, causes first, but without exception messages.

    Exception messages often quote a prompt, a response or a header.
    """
    parts = []
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        parts.append(_one(link))
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return "\n\nled to\n\n".join(reversed(parts))


def _one(error: BaseException) -> str:
    name = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    said = f": {error}" if isinstance(error, _SPEAKING) else ""
    inner = [_one(member) for member in error.exceptions] if isinstance(error, BaseExceptionGroup) else []
    return "\n".join(["".join(_frames(error.__traceback__)) + name + said, *inner])


def _frames(traceback: TracebackType | None) -> list[str]:
    return format_list(StackSummary.extract(walk_tb(traceback), capture_locals=False))
