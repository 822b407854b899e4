"""Files of a label folder: whole or not there, though several processes write to it and any may be killed.

A file is written as a part beside it, ``.NAME.PID.part``, which holds its name: processes of several machines may share
a folder and a process id. Parts of killed processes go when a run has come to its end and the file itself is there; a
process whose part went so finds the file in its place, written by another of the same settings.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sedet.files import naming


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Gives the part to write; the file has its name once the block has ended well.

    Raises:
        OSError: it cannot be written; ``filename`` is ``path``. A file there before stays as it was.
    """
    part = part_of(path)
    with naming(path):
        try:
            yield part
            try:
                part.replace(path)
            except FileNotFoundError:
                if not path.exists():
                    raise
        finally:
            part.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole, with the folder above it; on the disk before it has its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part, part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def part_of(path: Path) -> Path:
    """What this process calls ``path`` until it is whole."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def clear_parts(folder: Path) -> None:
    """Remove parts of files that are there by now. Only for who keeps other processes from writing exports.

    Those write down how they are made, each something else; all other files are the same whoever writes them.
    """
    for part in folder.glob(".*.part"):
        name = part.name[1:].rsplit(".", 2)[0]
        if name and part.is_file() and (folder / name).is_file():
            with suppress(OSError):  # Windows keeps what another process has open
                part.unlink()


def clear_part_folders(out: Path, name: str) -> None:
    """Remove parts of the folder ``name``. Only for who keeps other processes from writing one."""
    for part in out.glob(f".{name}.*.part"):
        shutil.rmtree(part, ignore_errors=True)
