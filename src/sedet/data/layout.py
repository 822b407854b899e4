"""Where images lie, and how what a format says of them becomes a table.

Annotation files are foreign: a name in them may lead anywhere inside the data folder and nowhere else.
Symbolic links are followed, because whoever owns the folder put them there; a file's text cannot.
"""

from __future__ import annotations

import math
import os
import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sedet.data.images import is_image_name, probe
from sedet.data.table import AnnotationTable, ImageEntry, Objects
from sedet.errors import DataError, DataErrors, ImageError

SIZE_TOLERANCE = 2
"""Pixels by which a stated size may differ from the file's; then the file's is taken."""


@dataclass(slots=True)
class ImageDraft:
    """One image as a format states it, before the file was looked at.

    Boxes are xyxy corners in pixels, or shares of width and height if ``relative``. Width and height are 0
    where the format does not state them. ``use_exif`` is None where it does not say.
    """

    path: Path
    name: str
    id: int
    width: int = 0
    height: int = 0
    relative: bool = False
    use_exif: bool | None = None
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)
    difficult: list[bool] = field(default_factory=list)
    outlines: list[float] = field(default_factory=list)

    def add(
        self,
        box: tuple[float, float, float, float],
        label: int,
        crowd: bool = False,
        difficult: bool = False,
        outline: float = math.nan,
    ) -> None:
        self.boxes.append(box)
        self.labels.append(label)
        self.crowd.append(crowd)
        self.difficult.append(difficult)
        self.outlines.append(outline)


class Faults:
    """What is malformed in a source: ``with faults:`` around each entry goes on to the next one."""

    def __init__(self) -> None:
        self.found: list[DataError] = []

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, DataError):
            return False
        self.found += error.found if isinstance(error, DataErrors) else [error]
        return True

    def check(self) -> None:
        """Raise what was found, if anything was."""
        if len(self.found) > 1:
            raise DataErrors(self.found)
        if self.found:
            raise self.found[0]


def absolute(path: str | Path) -> Path:
    """Absolute, with '.' and '..' taken out of the text; links stay."""
    return Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100  (Path.resolve would follow links)


def inside(root: Path, name: object, where: Path | str) -> str:
    """A foreign file name as a clean relative path (forward slashes) inside ``root``.

    Raises:
        DataError: it is no text, empty, or leads out of ``root``.
    """
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise DataError(f"{shown(name)} is no file name", where, "Give the image's file name")
    text = name.strip().replace("\\", "/")
    if text.startswith("/") or re.match(r"[A-Za-z]:", text):
        prefix = root.as_posix().rstrip("/") + "/"
        clean = posixpath.normpath(text)
        if not clean.startswith(prefix):
            raise DataError(
                f"the path {shown(name)} leads out of the data folder {root}",
                where,
                "Use paths relative to the images' folder, or name that folder with --images",
            )
        return clean[len(prefix) :]
    clean = posixpath.normpath(text)
    if clean == ".." or clean.startswith("../"):
        raise DataError(
            f"the path {shown(name)} leads out of the data folder {root}",
            where,
            "Keep images inside the data folder, or name their folder with --images",
        )
    return clean


def is_file(path: Path) -> bool:
    """Whether there is such a file; names too long for the system, or not to be looked at, are none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def shown(value: object, limit: int = 80) -> str:
    """A foreign value for a message: one line, no control characters, cut."""
    text = repr(value) if isinstance(value, str) else f"{type(value).__name__} {str(value)[:limit]!r}"
    return text if len(text) <= limit else text[: limit - 4] + "...'"


def is_run_folder(folder: Path) -> bool:
    """Whether a training wrote this folder: its pictures have boxes drawn in and are no data."""
    return is_file(folder / "config.yaml") and any(
        (folder / name).exists() for name in ("checkpoints", "metrics.csv", "train.log")
    )


def list_images(folder: Path, runs: set[Path] | None = None) -> list[str]:
    """Names of the images under a folder, relative, forward slashes, sorted.

    Hidden ones are skipped, and run folders below it, which are added to ``runs``.
    """
    found: list[str] = []
    seen = set()
    for base, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(base)
        if real in seen:  # links may lead in a circle
            folders.clear()
            continue
        seen.add(real)
        old = {f for f in folders if not f.startswith(".") and is_run_folder(Path(base) / f)}
        if runs is not None:
            runs.update(Path(base) / f for f in old)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in old)
        relative = Path(base).relative_to(folder)
        found.extend((relative / f).as_posix() for f in files if is_image_name(Path(f)))
    return sorted(found)


def split_words(stem: str) -> set[str]:
    """The words of a file or folder name that may name a split: instances_train2017 -> {instances, train}."""
    return {re.sub(r"(19|20)\d\d$", "", word) for word in re.split(r"[_\-. ]+", stem.lower())} - {""}


SAME_SPLIT = {"train": {"train", "training"}, "val": {"val", "valid", "validation"}}


def names_split(stem: str, split: str) -> bool:
    """Whether a file or folder name speaks of the split ('valid' and 'val2017' both do of 'val')."""
    return stem == split or bool(split_words(stem) & SAME_SPLIT.get(split, {split.lower()}))


def choose(what: str, where: Path, choices: Sequence[str], split: str | None) -> str:
    """The one choice, or the one that speaks of the split.

    Raises:
        DataError: there is none or more than one; lists them.
    """
    if len(choices) == 1 and split in (None, "train", "val"):
        return choices[0]
    if split is not None:
        fitting = [c for c in choices if names_split(Path(c).stem, split)]
        fitting = fitting or [c for c in choices if names_split(Path(c).parent.name, split)]
        if len(fitting) == 1:
            return fitting[0]
    listing = ", ".join(str(where / c) for c in choices[:12]) + (", ..." if len(choices) > 12 else "")
    missing = f", and not one of them is named for '{split}'" if split else ""
    raise DataError(f"{what}{missing}", where, f"Name one: {listing}")


def assemble(
    drafts: Iterable[ImageDraft],
    classes: Sequence[str],
    category_ids: Sequence[int],
    source: str,
    root: Path,
) -> AnnotationTable:
    """Look at every image's header, settle sizes and EXIF, and build the table.

    The stated size tells whether annotations refer to the image as turned by EXIF or as stored. Where it does
    not (square, turned by 180 degrees, no size stated), the majority of the images where it does is followed,
    else the turned image is meant, as viewers and labelling tools show it. A file that cannot be read keeps
    what was stated of it: ``clean`` reports and drops it.

    Raises:
        DataError: images do not exist (count and the first few).
    """
    drafts = list(drafts)
    headers: list[tuple[int, int, int] | None] = []
    missing = []
    for draft in drafts:
        try:
            answer = probe(draft.path)
        except (OSError, ValueError):
            missing.append(draft.path)
            continue
        if isinstance(answer, ImageError) and draft.path.is_dir():
            missing.append(draft.path)
        headers.append(None if isinstance(answer, ImageError) else answer)
    if missing:
        listing = ", ".join(str(p) for p in missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise DataError(
            f"{len(missing)} of {len(drafts)} images do not exist: {listing}",
            source,
            "Name their folder with --images, or remove them from the annotations",
        )
    verdicts = [_turned(d, h) for d, h in zip(drafts, headers, strict=True)]
    default = verdicts.count(False) <= verdicts.count(True)
    images, objects = [], []
    for draft, header, verdict in zip(drafts, headers, verdicts, strict=True):
        use_exif = default if verdict is None else verdict
        width, height = draft.width, draft.height
        if header is not None:
            turned = use_exif and header[2] >= 5
            size = (header[1], header[0]) if turned else header[:2]
            off = max(abs(size[0] - width), abs(size[1] - height))
            if width <= 0 or height <= 0 or off <= SIZE_TOLERANCE:
                width, height = size
        boxes = draft.boxes
        if draft.relative:
            boxes = [(a * width, b * height, c * width, d * height) for a, b, c, d in boxes]
        images.append(ImageEntry(draft.path, draft.name, width, height, draft.id, use_exif))
        objects.append(Objects.build(boxes, draft.labels, draft.crowd, draft.difficult, draft.outlines))
    return AnnotationTable(tuple(classes), tuple(images), tuple(objects), source, tuple(category_ids), root)


def _turned(draft: ImageDraft, header: tuple[int, int, int] | None) -> bool | None:
    """Whether the annotations mean the turned image; None if nothing tells."""
    if draft.use_exif is not None:
        return draft.use_exif
    if header is None or header[2] < 5 or header[0] == header[1] or draft.width <= 0 or draft.height <= 0:
        return None
    stated = (draft.width, draft.height)
    if stated == (header[1], header[0]):
        return True
    return False if stated == header[:2] else None
