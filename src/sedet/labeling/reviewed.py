"""What an annotation tool's export says of one image, before the image was found, and finding it."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

from sedet.data.images import is_image_name
from sedet.data.layout import inside, is_file
from sedet.errors import DataError

Corners = tuple[float, float, float, float]


@dataclass(slots=True)
class Reviewed:
    """An image that a person looked at.

    Attributes:
        names: what the image may be called, the best guess first.
        width, height: as the tool saw it, pixels; 0 where it does not say.
        relative: boxes are shares of width and height, else pixels; xyxy.
        boxes, labels: one entry an object; labels are class names.
        stamp: when it was reviewed, as text that sorts by time; empty where the tool does not say.
        where: file and entry, for messages.
    """

    names: list[str]
    width: int
    height: int
    relative: bool
    where: str
    boxes: list[Corners] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    stamp: str = ""


@dataclass(slots=True)
class Export:
    """What was read of an export.

    Attributes:
        images: those that were reviewed.
        unreviewed: images in it that nobody has completed.
        problems: what could not be read, a line each.
    """

    format: str
    images: list[Reviewed] = field(default_factory=list)
    unreviewed: int = 0
    problems: list[str] = field(default_factory=list)


def turned_bounds(x: float, y: float, width: float, height: float, degrees: float, centre: bool) -> Corners:
    """Bounds of a rectangle turned clockwise about its centre, or else about its upper left corner; all in pixels."""
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    px, py = (width / 2, height / 2) if centre else (0.0, 0.0)
    corners = [(0.0, 0.0), (width, 0.0), (0.0, height), (width, height)]
    xs = [x + px + (u - px) * cos - (v - py) * sin for u, v in corners]
    ys = [y + py + (u - px) * sin + (v - py) * cos for u, v in corners]
    return min(xs), min(ys), max(xs), max(ys)


def url_names(text: str) -> list[str]:
    """The file names that an image's address in a tool may stand for, the most likely first.

    ``/data/local-files/?d=sub/a.jpg`` stands for sub/a.jpg; ``/data/upload/3/1a2b3c4d-a.jpg`` for a.jpg;
    ``s3://bucket/sub/a.jpg`` and ``https://host/sub/a.jpg`` for sub/a.jpg.
    """
    names = []
    try:
        parts = urlsplit(text)
        names += parse_qs(parts.query).get("d", [])
        if parts.scheme or text.startswith("/data/"):
            names.append(unquote(parts.path))
    except ValueError:
        pass
    names += [text, unquote(text)]
    clean = [name.replace("\\", "/").lstrip("/") for name in names]
    uploads = []
    for name in clean:
        base = PurePosixPath(name).name
        if "upload/" in name and (found := re.fullmatch(r"[0-9a-f]{8}-(.+)", base)):
            uploads.append(found[1])
    return list(dict.fromkeys(name for name in [*clean[:1], *uploads, *clean[1:]] if name))


class Finder:
    """Finds images below a folder, and never outside of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._by_base: dict[str, list[str]] | None = None

    def find(self, names: Sequence[str], where: str) -> Path:
        """The file that the first fitting name leads to: as it is, without leading folders, or by its base name alone.

        Raises:
            DataError: there is none, or its base name fits several.
        """
        for name in names:
            exact = Path(name)  # it may hold what elsewhere parts folders, or spaces at its ends
            if not exact.anchor and ".." not in exact.parts and is_image_name(exact) and is_file(self.root / exact):
                return self.root / exact
            text = name.replace("\\", "/").lstrip("/")
            parts = [part for part in text.split("/") if part not in ("", ".")]
            for start in range(len(parts)):
                try:
                    clean = inside(self.root, "/".join(parts[start:]), where)
                except DataError:  # ".." and the like: tried without the folders before
                    continue
                path = self.root / clean
                if is_image_name(path) and is_file(path):
                    return path
        for name in names:
            found = self._index().get(PurePosixPath(name.replace("\\", "/")).name, [])
            if len(found) == 1:
                return self.root / found[0]
            if found:
                raise DataError(
                    f"the image name {names[0]!r} fits {len(found)} files ({found[0]}, {found[1]} ...)",
                    where,
                    "Give --images the folder that holds only the right one",
                )
        raise DataError(f"the image {names[0]!r} was not found in {self.root}", where, "Name its folder with --images")

    def _index(self) -> dict[str, list[str]]:
        if self._by_base is None:
            self._by_base = {}
            for base, folders, files in os.walk(self.root):
                folders[:] = sorted(f for f in folders if not f.startswith("."))
                for file in files:
                    if is_image_name(Path(file)):
                        place = (Path(base) / file).relative_to(self.root).as_posix()
                        self._by_base.setdefault(file, []).append(place)
        return self._by_base
