"""The images to label, in one fixed order, without holding their names in memory.

The names are written down once, one a line; every process and every later run of the same command reads that list,
so that the images of a shard stay the same.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from sedet.data.images import is_image_name
from sedet.data.layout import absolute, is_run_folder
from sedet.data.sources import find_images
from sedet.errors import DataError
from sedet.files import naming
from sedet.labeling.parts import part_of


def root_of(sources: Sequence[str]) -> Path:
    """The folder that image names are relative to: the one folder given, else the one all sources share.

    Raises:
        DataError: a source is missing or no image source, or they lie on several drives.
    """
    folders = []
    for source in sources:
        path = absolute(source)
        folders += [path] if path.is_dir() else [found.parent for found in find_images([source])]
    try:
        return Path(os.path.commonpath(folders))
    except ValueError:
        raise DataError(
            "these images share no folder", ", ".join(sources), "Label each source to its own --out"
        ) from None


def stream_names(sources: Sequence[str], root: Path) -> Iterator[str]:
    """Names of the images relative to ``root``, forward slashes; folder by folder, each sorted.

    Memory holds the names of one folder, and of several sources a digest an image, by which none comes twice.
    Within a folder names are sorted without their ending, so that files that differ in it alone follow each other.
    """
    seen: set[bytes] = set()
    for source in sources:
        path = absolute(source)
        found = _walk(path) if path.is_dir() else iter(find_images([source]))
        for image in found:
            name = image.relative_to(root).as_posix()
            if len(sources) > 1:
                mark = hashlib.blake2b(os.fsencode(name), digest_size=8).digest()
                if mark in seen:
                    continue
                seen.add(mark)
            yield name


def _walk(folder: Path) -> Iterator[Path]:
    """Images under a folder; hidden ones are skipped, and run folders below it, whose pictures have boxes drawn in."""
    visited = set()
    for base, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(base)
        if real in visited:  # links may lead in a circle
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and not is_run_folder(Path(base) / f))
        images = (Path(f) for f in files if is_image_name(Path(f)))
        for name in sorted(images, key=lambda p: (p.stem.casefold(), p.name)):
            yield Path(base) / name


def write_list(path: Path, names: Iterator[str]) -> None:
    """Write the list unless another process was first. A name is a JSON string: it may hold any character.

    Raises:
        DataError: there are no images.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = part_of(path)
    with naming(path):
        try:
            count = 0
            with temporary.open("w", encoding="ascii") as file:
                for name in names:
                    file.write(json.dumps(name) + "\n")
                    count += 1
                file.flush()
                os.fsync(file.fileno())
            if not count:
                raise DataError("no images were found", None, "Give a folder of images, a list or a glob")
            try:
                os.link(temporary, path)  # fails where the file is there, which a rename would replace
            except (FileExistsError, FileNotFoundError):
                if not path.exists():
                    raise
        except (PermissionError, NotImplementedError):  # a file system without links
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def read_list(path: Path) -> Iterator[str]:
    """The names of a list, one after the other."""
    with path.open(encoding="ascii") as file:
        for line in file:
            yield json.loads(line)


def list_digest(names: Iterator[str]) -> tuple[int, str]:
    """How many names there are, and a digest of all."""
    digest, count = hashlib.blake2b(digest_size=16), 0
    for name in names:
        digest.update(json.dumps(name).encode("ascii") + b"\n")
        count += 1
    return count, digest.hexdigest()


def parts(names: Iterator[str], size: int) -> Iterator[tuple[int, list[str]]]:
    """The list in numbered parts of ``size`` names."""
    number = 0
    while part := list(islice(names, size)):
        yield number, part
        number += 1
