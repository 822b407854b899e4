"""Problems of data, and the table without what cannot be trained on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sedet.data.images import probe
from sedet.data.layout import SIZE_TOLERANCE
from sedet.data.table import AnnotationTable, ImageEntry, Objects
from sedet.errors import ImageError

Level = Literal["error", "warning", "note"]

MIN_SIDE = 1e-3
"""Pixels; a box with a shorter side has no area."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with the data.

    Attributes:
        level: error (training does not start), warning (it starts, but leaves something out), note.
        file: where it was met.
        message: what is wrong.
        todo: what to do about it.
    """

    level: Level
    file: str
    message: str
    todo: str

    @property
    def text(self) -> str:
        """The line without its level, for logs that have their own."""
        return f"{self.file}: {self.message}. {self.todo}"

    def __str__(self) -> str:
        return f"{self.level}: {self.text}"


def clean(table: AnnotationTable) -> tuple[AnnotationTable, list[Problem]]:
    """The table that is trained on, and what was changed for it.

    Boxes are clipped to their image; those that are not finite or keep no area are dropped. Images whose
    header cannot be read, or whose size is not the stated one (so that boxes would lie elsewhere), are
    dropped. Only headers are read. The order of what stays does not change.
    """
    images: list[ImageEntry] = []
    objects: list[Objects] = []
    problems: list[Problem] = []
    for entry, found in zip(table.images, table.objects, strict=True):
        wrong = header_problem(entry)
        if wrong is not None:
            problems.append(wrong)
            continue
        kept, told = _clean_boxes(entry, found, table.classes)
        problems.extend(told)
        images.append(entry)
        objects.append(kept)
    return replace(table, images=tuple(images), objects=tuple(objects)), problems


def header_problem(entry: ImageEntry) -> Problem | None:
    """What the image's header says against training on it."""
    try:
        header = probe(entry.path)
    except OSError:
        header = ImageError("there is no such image file", entry.path, "Remove it from the annotations")
    if isinstance(header, ImageError):
        return Problem("warning", str(entry.path), f"{header.what}; it is skipped", f"{header.todo or 'Replace it'}")
    turned = entry.use_exif and header[2] >= 5
    width, height = (header[1], header[0]) if turned else header[:2]
    if max(abs(width - entry.width), abs(height - entry.height)) > SIZE_TOLERANCE:
        return Problem(
            "warning",
            str(entry.path),
            f"the image is {width}x{height}, its annotations say {entry.width}x{entry.height}; it is skipped",
            "Rescale its boxes and the stated size, or put the original image back",
        )
    return None


def _clean_boxes(entry: ImageEntry, found: Objects, classes: Iterable[str]) -> tuple[Objects, list[Problem]]:
    if not len(found):
        return found, []
    boxes = found.boxes
    high = np.array([entry.width, entry.height] * 2, dtype=np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        clipped = np.clip(boxes, 0, high).astype(np.float32)
        finite = np.isfinite(np.abs(boxes).max(axis=1))  # a NaN spreads
        sides: NDArray[np.float32] = boxes[:, 2:] - boxes[:, :2]
        inside: NDArray[np.float32] = clipped[:, 2:] - clipped[:, :2]
        area = sides.min(axis=1) > MIN_SIDE
        kept = np.logical_and(finite, inside.min(axis=1) > MIN_SIDE)
        out = np.abs(clipped - boxes).max(axis=1) > SIZE_TOLERANCE
    names = tuple(classes)
    problems = []
    for i in np.flatnonzero(~kept | out):
        text = "[" + ", ".join(f"{v:g}" for v in boxes[i]) + "]"
        what = f"box {i + 1} ({names[found.labels[i]]}) {text}"
        if not finite[i]:
            message, todo = f"{what} is not finite; it is dropped", "Write its corners or remove it"
        elif not area[i]:
            message, todo = f"{what} has no area; it is dropped", "Draw it anew or remove it"
        elif not kept[i]:
            message = f"{what} lies outside the image ({entry.width}x{entry.height}); it is dropped"
            todo = "Draw it anew or remove it"
        else:
            message = f"{what} reaches out of the image ({entry.width}x{entry.height}); it is clipped"
            todo = "Clip it in the annotations"
        problems.append(Problem("warning", str(entry.path), message, todo))
    return replace(found, boxes=clipped).select(kept), problems
