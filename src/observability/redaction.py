"""Removes secrets and credentials from log lines.

Secrets, wherever they hide; the words of exceptions, which quote what people sent; and what a terminal would obey.
"""

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
# A shorter secret would blacken innocent words; no service hands out one.
MIN_SECRET = 6

_SECRET_NAME = re.compile(
    r"api[_-]?key|authorization|cookie|credential|passw|private[_-]?key|secret|^(.*[_-])?(dsn|key|token)$",
    re.IGNORECASE,
)
# What looks like a secret, what replaces it, and what a line in small letters has to hold for a look to be worth it.
# Clients' text passes here, so each takes time linear in it: a test measures that.
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
_MAX_READ = 4096  # characters of it that are searched for secrets before it is cut

# What colours text; whoever sends it can do no more than that.
_COLOUR = r"\x1b\[[0-9;]*m"
# What moves a terminal's cursor, turns text round or can't be encoded: all controls but the tab and the line feed,
# Unicode's marks of direction, lone surrogates.
_OBEYED = r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
_COLOUR_OR_OBEYED = re.compile(f"{_COLOUR}|{_OBEYED}")

# Exceptions that never quote a request: ours, and those that tell why a start failed.
_SPEAKING = (ServiceError, OSError, ImportError)


class Redactor:
    """Hides secrets, by the names they are kept under and by what they look like.

    Args:
        secrets: The values that this process holds itself.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        known = {form for secret in secrets for form in _forms(secret)}
        self._known = sorted(known, key=len, reverse=True)

    def by_name(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """A processor: the event without the values of fields that are named like secrets, nested ones included."""
        exc_info = {"exc_info": event["exc_info"]} if "exc_info" in event else {}  # has to stay a tuple
        return {name: HIDDEN if _is_secret(name) else _within(value) for name, value in event.items()} | exc_info

    def by_value(self, _logger: WrappedLogger, _method: str, line: Any) -> str:
        """The last processor, which gets the rendered line: it without secrets."""
        return self.text(line)

    def text(self, text: str) -> str:
        """Any text without what is, or looks like, a secret."""
        for secret in self._known:
            if secret in text:
                text = text.replace(secret, HIDDEN)
        return hide_looks(text)


def hide_looks(text: str) -> str:
    """Hide what looks like a secret."""
    small = text.lower()
    for hint, look, replacement in _SECRET_LOOKS:
        if hint in small:
            text = look.sub(replacement, text)
    return text


@lru_cache(1024)
def _is_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def _forms(secret: str) -> set[str]:
    """The secret, and each of its lines, as they are and as JSON writes them: headers are sent without line ends."""
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
    """A client-written string as printable text of at most 256 of its characters; `…` marks a cut one."""
    if len(text) > MAX_CLIENT_TEXT:
        text = hide_looks(text[:_MAX_READ])[:MAX_CLIENT_TEXT] + CUT
    return visible(text)


def visible(text: str) -> str:
    """Escape what is not printable, so that the text stays on one line: `\\x1b`.

    A log must not be where others write lines, or to a terminal (CWE-117 and CWE-150 of cwe.mitre.org).
    """
    return text if text.isprintable() else "".join(char if char.isprintable() else _escape(char) for char in text)


def only_colours(_logger: WrappedLogger, _method: str, line: Any) -> str:
    """A processor for coloured lines: of what a terminal obeys it leaves the colours alone."""
    return _COLOUR_OR_OBEYED.sub(lambda found: found[0] if len(found[0]) > 1 else _escape(found[0]), line)


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode()


def quiet_traceback(error: BaseException) -> str:
    """A traceback that names types and places, causes first, but says nothing that an exception says.

    Messages of exceptions quote what they stumbled over: a prompt, an answer, a header.
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
