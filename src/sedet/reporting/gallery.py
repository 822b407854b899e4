"""Pictures in a report: what they have in common, and the gallery of the worst errors.

Each is a small JPEG in the page itself, with its boxes drawn over it by the page. All pictures of a page share a
:class:`Budget`.
"""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sedet.data.images import read_image
from sedet.data.table import AnnotationTable
from sedet.detectors.regions import Detections
from sedet.errors import ImageError
from sedet.evaluation.errors import ERRORS, KINDS, classify
from sedet.evaluation.pairs import pair
from sedet.reporting.judged import from_score

BUDGET = 4 * 2**20
"""Bytes of all pictures of a page together, as they stand in it."""
PER_KIND = 12
"""Errors of a kind that are shown."""
PER_IMAGE = 2
"""Errors of a kind and image that are shown."""
CROP = 220
"""Longest side of an error's crop, pixels."""
READ = 1600
"""Longest side that a file is read at."""

Box = tuple[float, float, float, float]


@dataclass
class Budget:
    """What the pictures of a page may still take; ``left_out`` counts those it had no room for."""

    left: int = BUDGET
    left_out: int = 0

    def spend(self, image: NDArray[np.uint8], longest: int) -> str | None:
        """The image as a data URI, shrunk to ``longest``; None where there is no room."""
        picture = Image.fromarray(np.ascontiguousarray(image))
        picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        data = io.BytesIO()
        picture.save(data, format="JPEG", quality=78, optimize=True)
        uri = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
        if len(uri) > self.left:
            self.left_out += 1
            return None
        self.left -= len(uri)
        return uri


@dataclass(frozen=True)
class Mark:
    """A box over a picture, in the picture's own pixels: its ``kind`` is found, truth or other."""

    box: Box
    kind: str
    text: str
    label: int = -1
    score: float = 1.0
    colour: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture with its boxes.

    Attributes:
        uri: the JPEG itself; width, height: what the boxes are in, pixels.
        name: the image's name; text: what is seen, in words.
        kind: of error; label: class it belongs to; score: of the detection, 0 where there is none.
    """

    uri: str
    width: float
    height: float
    name: str
    text: str
    marks: tuple[Mark, ...]
    kind: str = ""
    label: int = -1
    score: float = 0.0


@dataclass(frozen=True)
class _Error:
    kind: str
    image: int
    label: int
    score: float
    box: Box
    target: int
    text: str
    rank: float


@dataclass(frozen=True)
class ErrorGallery:
    """The worst errors; ``shown`` of ``counted`` by kind."""

    pictures: tuple[Picture, ...]
    counted: dict[str, int] = field(default_factory=dict)


def error_gallery(table: AnnotationTable, detections: Sequence[Detections], cut: float, budget: Budget) -> ErrorGallery:
    """Crops of the worst errors of each kind: wrong detections by score, missed objects by size.

    Kinds take turns, and classes within them, so that rare ones are seen too.

    Args:
        detections: one entry an image of ``table``, xyxy in its pixels.
        cut: score from which on a detection counts.
    """
    every = _errors(table, from_score(detections, cut))
    kinds = [_in_turn(e for e in every if e.kind == kind) for kind in ERRORS]
    chosen = [error for row in itertools.zip_longest(*kinds) for error in row if error is not None]
    counted = {kind: sum(e.kind == kind for e in every) for kind in ERRORS}
    crops: dict[int, Picture] = {}
    for image in sorted({e.image for e in chosen}):
        entry = table.images[image]
        try:
            pixels = read_image(entry.path, use_exif=entry.use_exif, max_side=READ)
        except ImageError:
            continue
        for place, error in enumerate(chosen):
            if error.image == image and (picture := _crop(table, error, pixels, budget)) is not None:
                crops[place] = picture
    return ErrorGallery(tuple(crops[place] for place in sorted(crops)), counted)


def _errors(table: AnnotationTable, detections: Sequence[Detections]) -> list[_Error]:
    """Every error, the worst first."""
    pairs = pair(table, detections)
    found: list[_Error] = []
    for i, (p, d, truth) in enumerate(zip(pairs, detections, table.objects, strict=True)):
        order = np.argsort(-d.scores.numpy().astype(np.float64), kind="stable")  # as pair orders them
        boxes = d.boxes.numpy()[order]
        true_boxes = truth.boxes[~truth.ignored]
        errors = classify(p)
        for n in np.flatnonzero(errors.kind >= 0):
            kind, label, score = KINDS[errors.kind[n]], int(p.labels[n]), float(p.scores[n])
            overlap = p.iou[n]
            target = int(errors.target[n])
            if kind in ("duplicate", "both") and len(overlap):
                same = overlap * (p.true_labels == label) if kind == "duplicate" else overlap
                target = int(same.argmax())
            text = _told(kind, table.classes, label, score, target, p.true_labels, overlap)
            found.append(_Error(kind, i, label, score, _box(boxes[n]), target, text, score))
        for t in np.flatnonzero(errors.missed):
            label = int(p.true_labels[t])
            text = f"{table.classes[label]} not found"
            found.append(_Error("missed", i, label, 0.0, _box(true_boxes[t]), int(t), text, float(p.areas[t])))
    return sorted(found, key=lambda e: -e.rank)


def _told(
    kind: str,
    classes: Sequence[str],
    label: int,
    score: float,
    target: int,
    true_labels: NDArray[np.int64],
    overlap: NDArray[np.float64],
) -> str:
    """An error in words."""
    said = f"{classes[label]}, score {score:.2f}"
    if target < 0:
        return f"{said}: there is no object"
    near = f"IoU {overlap[target]:.2f} with {classes[int(true_labels[target])]}"
    return {
        "localization": f"{said}: badly placed, {near}",
        "class": f"{said}: another class, {near}",
        "duplicate": f"{said}: already found, {near}",
        "both": f"{said}: wrong class and place, {near}",
    }.get(kind, said)


def _in_turn(errors: Iterable[_Error]) -> list[_Error]:
    """The worst of each class in turn, few of one image."""
    queues: dict[int, list[_Error]] = {}
    taken: dict[int, int] = {}
    for error in errors:
        queues.setdefault(error.label, []).append(error)
    chosen: list[_Error] = []
    while len(chosen) < PER_KIND and any(queues.values()):
        for queue in queues.values():
            while queue:
                error = queue.pop(0)
                if taken.get(error.image, 0) < PER_IMAGE:
                    taken[error.image] = taken.get(error.image, 0) + 1
                    chosen.append(error)
                    break
            if len(chosen) == PER_KIND:
                break
    return sorted(chosen, key=lambda e: -e.rank)


def _crop(table: AnnotationTable, error: _Error, pixels: NDArray[np.uint8], budget: Budget) -> Picture | None:
    """The error with its surroundings, at least a quarter of the image's long side."""
    truth, entry = table.objects[error.image], table.images[error.image]
    height, width = pixels.shape[:2]
    scale = width / entry.width if entry.width else 1.0
    true_boxes = truth.boxes[~truth.ignored].astype(np.float64) * scale
    true_labels = truth.labels[~truth.ignored]
    box = np.array(error.box) * scale
    around = box.copy()
    if error.target >= 0:
        goal = true_boxes[error.target]
        around = np.concatenate([np.minimum(around[:2], goal[:2]), np.maximum(around[2:], goal[2:])])
    side = max(1.7 * max(around[2] - around[0], around[3] - around[1]), 0.25 * max(width, height), 24.0)
    middle = (around[:2] + around[2:]) / 2
    x1, y1 = (int(v) for v in np.clip(middle - side / 2, 0, [max(0, width - side), max(0, height - side)]))
    x2, y2 = min(width, round(x1 + side)), min(height, round(y1 + side))
    uri = budget.spend(pixels[y1:y2, x1:x2], CROP)
    if uri is None:
        return None
    corner = np.array([x1, y1, x1, y1], dtype=np.float64)
    marks = []
    for n, (other, label) in enumerate(zip(true_boxes, true_labels, strict=True)):
        inside = other[2] > x1 and other[3] > y1 and other[0] < x2 and other[1] < y2
        if inside:
            kind = "truth" if n == error.target else "other"
            marks.append(Mark(_box(other - corner), kind, f"labelled: {table.classes[int(label)]}"))
    if error.kind != "missed":
        marks.append(Mark(_box(box - corner), "found", f"found: {table.classes[error.label]} {error.score:.2f}"))
    return Picture(uri, x2 - x1, y2 - y1, entry.name, error.text, tuple(marks), error.kind, error.label, error.score)


def _box(values: NDArray[np.floating]) -> Box:
    x1, y1, x2, y2 = (round(float(v), 1) for v in values)
    return x1, y1, x2, y2
