"""Text for a terminal or a log: from outside (file names, class names), and times."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text on one line, with control characters, and bytes of file names that are no UTF-8, written as escapes.

    So it can neither break a line nor steer a terminal, and any encoding can write it.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def minutes(seconds: float) -> str:
    """Seconds, minutes or hours, as one would say it."""
    if seconds < 100:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 6000 else f"{seconds / 3600:.1f} hours"
