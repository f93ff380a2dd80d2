"""Text that every encoding can hold."""


def well_formed(text: str) -> str:
    """`text` without lone surrogates: pairs of them joined, single ones replaced by U+FFFD.

    Models and their providers can spell them as escapes in JSON (RFC 8259, section 8.2); UTF-8 has none.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
