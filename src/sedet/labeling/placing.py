"""Images beside their labels in an export: as links, or as copies that do without the folder they come from."""

from __future__ import annotations

import shutil
from pathlib import Path

from sedet.files import naming


class Placer:
    """Places images and counts those it could not.

    Args:
        root: the labelled folder.
        copy: copy images in place of linking to them.
    """

    def __init__(self, root: Path, copy: bool) -> None:
        self._root, self._copy = root, copy
        self._missing, self._first = 0, ""

    def place(self, name: str, path: Path) -> bool:
        """Place the image ``name`` of the labelled folder at ``path``, with the folders above it.

        Returns:
            False where there is no image to copy: an export is refused that names images it does not have.

        Raises:
            OSError: a copy cannot be written (``filename`` is ``path``).
        """
        source = self._root / name
        placed = _copied(source, path) if self._copy else linked(path, source)
        if not placed:
            self._first = self._first or name
            self._missing += 1
        return placed or not self._copy

    def notes(self, export: str) -> list[str]:
        if not self._missing:
            return []
        images = f"{export}: {self._missing} images could not be"
        if self._copy:
            why = "not readable any more, or names that differ in case only"
            return [f"{images} copied and are left out ({why}): {self._first!r} ..."]
        return [f"{images} linked: move the export away and write it with --copy"]


def linked(path: Path, target: Path, folder: bool = False) -> bool:
    """Make a link to a file or a folder; False where the system or the file system has none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target, target_is_directory=folder)
    except OSError:
        return False
    return True


def _copied(source: Path, path: Path) -> bool:
    try:
        source.open("rb").close()
    except OSError:
        return False
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():  # another image, where the file system takes their names for one
            return False
        shutil.copyfile(source, path)
    return True
