"""Writing files whole or not at all. Nothing heavy is imported here: the settings, and so the help, read this file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write to a temporary file beside ``path`` and move it into place. Folders above it are made.

    Args:
        durable: the data is on the disk before the file has its name, so that it outlives a power cut. Waiting for
            the disk takes longer than a detector needs for an image, so files made for every image go without.

    Raises:
        OSError: it cannot be written; ``filename`` is ``path``. A file there before stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.part")  # short: the name itself may be as long as a name can be
    with naming(path):
        try:
            with temporary.open("wb") as file:
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def unwritable(path: Path, *read: Path) -> str | None:
    """Why a file or folder cannot be made there, or None: looked at before work is done that would be lost.

    Args:
        read: what the work reads; to write over it would lose it.
    """
    if path.is_file() and any(one.exists() and path.samefile(one) for one in read):
        return "it is what is read"
    above = path.absolute().parent
    while not above.exists() and above != above.parent:
        above = above.parent
    if not above.is_dir():
        return f"{above} is no folder"
    return None if os.access(above, os.W_OK | os.X_OK) else f"{above} may not be written to"


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the system name the file, which it does not tell of a full disk."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise
