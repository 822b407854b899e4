"""Names of files and classes in XML, which holds neither control characters nor bytes that are no UTF-8."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes


def to_xml(name: str) -> str:
    """The name as it is, or percent-encoded where XML cannot hold it: ``caf%E9.png`` for those bytes in Latin-1.

    Then its percent signs are encoded too, and so is a name that reads as if it were encoded; so each name has a text
    of its own.
    """
    if not _odd(name):
        return name
    return "".join(c if legal(c) and c != "%" else "".join(f"%{byte:02X}" for byte in _bytes(c)) for c in name)


def from_xml(text: str) -> str:
    """The name that :func:`to_xml` made this of."""
    name = _decoded(text)
    return name if _odd(name) else text


def legal(character: str) -> bool:
    """Whether XML 1.0 can hold a character (https://www.w3.org/TR/xml/#charsets)."""
    return (
        character in "\t\n\r" or " " <= character <= "\ud7ff" or "\ue000" <= character <= "\ufffd"
        or character >= "\U00010000"
    )  # fmt: skip


def _odd(name: str) -> bool:
    while all(map(legal, name)):
        shorter = _decoded(name)
        if shorter == name:
            return False
        name = shorter
    return True


def _decoded(text: str) -> str:
    return unquote_to_bytes(text).decode("utf-8", "surrogateescape") if "%" in text else text


def _bytes(character: str) -> bytes:
    # Python names bytes of a file name that are no UTF-8 by these; other halves of pairs are from Windows.
    escaped = "\udc80" <= character <= "\udcff"
    return character.encode("utf-8", "surrogateescape" if escaped else "surrogatepass")
