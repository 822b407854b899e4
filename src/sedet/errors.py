"""Errors a user can cause and mend. The command prints them as one line and exits with code 2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class SedetError(Exception):
    """A mistake in what was given: says what, where, and what to do. Shown without a traceback."""


class ConfigError(SedetError):
    """A setting that is unknown, malformed, or does not go with another."""


class DataError(SedetError):
    """Data that cannot be read or used.

    Args:
        what: the problem, in words.
        where: the file (and line, image, box) it was met in.
        todo: what the user can do about it.
    """

    def __init__(self, what: str, where: Path | str | None = None, todo: str | None = None) -> None:
        self.what, self.where, self.todo = what, where, todo
        text = f"{where}: {what}" if where is not None else what
        super().__init__(f"{text}. {todo}" if todo else text)


class DataErrors(DataError):
    """Several malformed entries of one source: reads as the first, with how many there are.

    Args:
        found: two or more.
    """

    def __init__(self, found: Sequence[DataError]) -> None:
        self.found = tuple(found)
        first, others = found[0], len(found) - 1
        more = f"{others} more error{'s' if others > 1 else ''}"
        super().__init__(f"{first.what} (and {more}: sedet check lists all)", first.where, first.todo)


class ImageError(DataError):
    """An image that is missing, unreadable, truncated or too large. Training skips and counts it."""


class CheckpointError(SedetError):
    """A checkpoint or detector file that is damaged, foreign, or does not fit."""


class TrainingError(SedetError):
    """Training cannot go on (non-finite loss, no memory, full disk). The last good checkpoint is kept."""


class OutOfMemory(TrainingError):
    """A batch does not fit into memory.

    Args:
        text: the line for the user.
        parts: into how many parts (``accumulate``) the batch fits; None if not even single images do, or unknown.
    """

    def __init__(self, text: str, parts: int | None = None) -> None:
        super().__init__(text)
        self.parts = parts
