"""One process trains a run folder at a time, or writes the exports of a label folder."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from sedet.errors import ConfigError

try:
    import fcntl
except ImportError:  # Windows: nothing keeps a second process away
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = ".lock"


def sole_trainer(folder: Path) -> AbstractContextManager[bool]:
    """Keep other processes from training the folder, as :func:`sole` does.

    Raises:
        ConfigError: another process trains it.
    """
    return sole(folder / LOCK_FILE, f"{folder} is being trained by another process")


@contextmanager
def sole(path: Path, busy: str) -> Iterator[bool]:
    """Hold a lock, which goes away with the process, however that ends; the file goes when it is let go.

    File systems without locks, and folders that cannot be written to, go without.

    Args:
        path: the lock's file.
        busy: what another process is doing that holds it, a sentence without its full stop.

    Yields:
        Whether the lock is held.

    Raises:
        ConfigError: another process holds it.
    """
    file = _lock(path, busy)
    try:
        yield file is not None
    finally:
        if file is not None:
            with suppress(OSError):
                path.unlink()  # before it is let go: later it may be another's
            os.close(file)


def _lock(path: Path, busy: str) -> int | None:
    if fcntl is None:
        return None
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return None
        try:
            # not flock: processes that load images would inherit it, and outlive one that is killed by seconds
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.stat().st_ino == os.fstat(file).st_ino:
                return file
        except FileNotFoundError:
            pass  # its holder removed it while we opened it
        except OSError as error:
            os.close(file)
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise ConfigError(f"{busy}: wait until that has ended, or stop it first") from None
            return None
        os.close(file)
