"""Text that every encoding can hold."""

import re

# Backslashes that escape each other, then the escape of a pair or (the group) of a single surrogate. Matches begin at
# the first backslash of a row, which keeps the search linear.
_SURROGATE_ESCAPE = re.compile(
    rb"(?<!\\)(?:\\\\)*+(?:\\u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2}|(\\u[dD][89a-fA-F][\da-fA-F]{2}))"
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

    def replaced(match: re.Match[bytes]) -> bytes:
        return match[0] if match[1] is None else match[0].removesuffix(match[1]) + rb"\ufffd"

    return _SURROGATE_ESCAPE.sub(replaced, document)
