"""Text that every encoding can hold."""

import re

# Backslashes that escape each other, then the escape of a pair or (the group) of a single surrogate. Matches begin at
# the first backslash of a row, which keeps the search linear.
_HEX = "[0-9a-fA-F]"
_SURROGATE_ESCAPE = re.compile(
    rf"(?<!\\)(?:\\\\)*+(?:\\u[dD][89abAB]{_HEX}{{2}}\\u[dD][c-fC-F]{_HEX}{{2}}|(\\u[dD][89a-fA-F]{_HEX}{{2}}))"
)


def well_formed(text: str) -> str:
    """`text` without lone surrogates: pairs of them joined, single ones replaced by U+FFFD.

    Models and their providers can spell them as escapes in JSON (RFC 8259, section 8.2); UTF-8 has none.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def replace_lone_escapes(document: bytes) -> bytes:
    """Replace the escapes of lone surrogates in a JSON document, which strict parsers refuse, by that of U+FFFD."""

    def replaced(match: re.Match[str]) -> str:
        return match[0] if match[1] is None else match[0].removesuffix(match[1]) + r"\ufffd"

    # Latin-1 has a character for each byte: escapes are ASCII, and what else is there stays.
    return _SURROGATE_ESCAPE.sub(replaced, document.decode("latin-1")).encode("latin-1")
