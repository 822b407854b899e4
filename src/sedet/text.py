"""Text from outside (file names, class names), for a terminal or a log."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text on one line, with control characters, and bytes of file names that are no UTF-8, written as escapes.

    So it can neither break a line nor steer a terminal, and any encoding can write it.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
