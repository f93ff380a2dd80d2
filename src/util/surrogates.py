"""Text without lone surrogates, which no encoding can represent."""

import re

# An even number of backslashes, then the escape of a pair or (the group) of a single surrogate. Matches begin at the
# first backslash of a row, which keeps the search linear.
_HEX = "[0-9a-fA-F]"
_SURROGATE_ESCAPE = re.compile(
    rf"(?<!\\)(?:\\\\)*+(?:\\u[dD][89abAB]{_HEX}{{2}}\\u[dD][c-fC-F]{_HEX}{{2}}|(\\u[dD][89a-fA-F]{_HEX}{{2}}))"
)


def replace_lone_surrogates(text: str) -> str:
    """Return `text` without lone surrogates: pairs are joined, single ones become U+FFFD.

    JSON from models and providers may contain them as escapes (RFC 8259, 8.2). UTF-8 can't encode them.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def replace_lone_escapes(document: bytes) -> bytes:
    """Replace the escapes of lone surrogates in a JSON document, which strict parsers reject, with U+FFFD."""

    def replaced(match: re.Match[str]) -> str:
        return match[0] if match[1] is None else match[0].removesuffix(match[1]) + r"\ufffd"

    # Latin-1 maps each byte to a character. Escapes are ASCII, and other bytes survive the round trip.
    return _SURROGATE_ESCAPE.sub(replaced, document.decode("latin-1")).encode("latin-1")
