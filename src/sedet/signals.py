"""A request to end (SIGTERM, from schedulers, containers and service managers) ends a command as Ctrl-C does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

TERMINATED = 143
"""Exit code: 128 and the signal's number."""


class Terminated(KeyboardInterrupt):
    """The process was asked to end; what Ctrl-C cleans up and says is cleaned up and said."""


@contextmanager
def terminable() -> Iterator[None]:
    """Within it SIGTERM raises :class:`Terminated`; outside the main thread nothing changes."""
    if threading.current_thread() is not threading.main_thread():  # only there can signals be caught
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _terminated(number: int, frame: FrameType | None) -> None:
    raise Terminated
